import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { cli, root, run, temporaryFolder } from '../programs.ts';
import { startGateway } from './gateway-process.ts';
import { connect } from './mcp-client.ts';

describe.skipIf(process.getuid?.() !== 0)('a gateway whose state_dir is on a full disk', () => {
  const config = `servers:
  files: { type: process, command: [${process.execPath}, ${root}test/fixtures/servers/everything.mjs] }
`;
  let folder: string;
  const state = () => join(folder, 'state');
  const filler = () => join(state(), 'filler');
  const fill = () => run('sh', ['-c', `cat /dev/zero >${filler()}`]);

  beforeEach(async () => {
    folder = await temporaryFolder();
    await mkdir(state());
    const { code, stderr } = await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', state()]);
    expect(code, stderr).toBe(0);
  });
  afterEach(async () => {
    await run('umount', ['-l', state()]);
    await rm(folder, { recursive: true, force: true });
  });

  it('serves all the same, says so in its log, in /servers and in doctor, and keeps things again when there is room', async () => {
    await using gateway = await startGateway({ folder, config });
    await fill();
    await gateway.printed(/^Ready: |✓ files/m, 20_000);
    for (let n = 0; n < 3; n += 1) {
      await using client = await connect(gateway.url);
      expect(await client.text('files__echo', { text: 'served' })).toBe('served');
      expect((await client.listTools()).tools.length).toBeGreaterThan(10);
    }
    await gateway.printed(/sessions could not be kept .*no space left on device/, 10_000);
    // Once, not for each session.
    expect(gateway.output().match(/could not be kept/g)).toHaveLength(1);
    expect(await (await fetch(`${gateway.url}/servers/files`)).json()).toMatchObject({
      warnings: [expect.stringMatching(/lists could not be kept for the next start: ENOSPC/)],
    });
    const doctor = await cli(['doctor', '--config', join(folder, 'servers.yaml'), '--json']);
    type Finding = { check: string; verdict: string; hint?: string };
    const { findings } = JSON.parse(doctor.stdout) as { findings: Finding[] };
    expect(findings.find(({ check }) => check === 'state_dir')).toMatchObject({
      verdict: 'problem',
      hint: expect.stringContaining('gateway.state_dir'),
    });

    await rm(filler());
    await using client = await connect(gateway.url);
    expect(await client.text('files__echo', { text: 'kept' })).toBe('kept');
    await gateway.end();
    await using next = await startGateway({ folder, config });
    const session = (client.transport as StreamableHTTPClientTransport).sessionId!;
    const response = await fetch(`${next.url}/mcp`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-session-id': session,
        'mcp-protocol-version': '2025-11-25',
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' }),
    });
    expect(response.status).toBe(200);
  });

  it('does not start there for the first time, and says why', async () => {
    await fill();
    const file = join(folder, 'servers.yaml');
    await writeFile(file, config);
    const { code, stderr } = await cli(['start', '--config', file, '--port', '0'], { limitMs: 20_000 });
    expect(code).toBe(2);
    expect(stderr).toMatch(/state folder .* cannot be used: ENOSPC/);
    expect(stderr).toMatch(/gateway\.state_dir/);
  });
});
