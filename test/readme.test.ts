import { readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GatewayProcess, startGateway } from './e2e/gateway-process.ts';
import { cli, root, run, temporaryFolder } from './programs.ts';

const readme = readFileSync(join(root, 'README.md'), 'utf8');
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, text]) => text!);

/** Run elsewhere: make up by hand and from a fresh clone, make test by being here. */
const ranElsewhere = /^(make up|make test)/;

describe('the README', () => {
  let gateway: GatewayProcess;
  let home: string;
  const commands = blocks('sh')
    .flatMap((block) => block.trim().split('\n'))
    .filter((line) => !ranElsewhere.test(line));

  beforeAll(async () => {
    home = await temporaryFolder();
    const config = readFileSync(join(root, 'servers.yaml'), 'utf8').replaceAll(
      './servers/',
      `${root}servers/`,
    );
    const [demo] = /^ {2}demo:\n(?: {4}.*\n)+/m.exec(config)!;
    gateway = await startGateway({ config: `servers:\n${demo}`, discovered: true });
  });
  afterAll(async () => {
    await gateway?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  it('has commands to run', () => {
    expect(commands.length).toBeGreaterThan(12);
  });

  it.each(commands)('runs: %s', async (command) => {
    const { port } = new URL(gateway.url);
    // Where the gateway of this test listens, and its servers.yaml rather than ours.
    const line = command.replaceAll('localhost:8000', `localhost:${port}`);
    const { code, stdout, stderr } = await run('bash', ['-euc', line], {
      cwd: root,
      env: {
        ...process.env,
        PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
        HOME: home,
        GATEWAY_PORT: port,
      },
    });
    expect(stdout.trim().length, stderr).toBeGreaterThan(0);
    expect(stdout).not.toContain('"status":4');
    // doctor answers 1 when it finds something wrong with this very machine; that it ran is what counts here.
    if (!command.includes('doctor')) expect(code, stdout + stderr).toBe(0);
  });

  it.each(blocks('yaml'))('shows a valid servers.yaml', async (text) => {
    const file = join(home, 'servers.yaml');
    await writeFile(file, text);
    const answer = await cli(['validate', file], { env: { ...process.env, NOTES_API_KEY: 'x' } });
    expect(answer, answer.stdout).toMatchObject({ code: 0 });
  });

  it('links only to files that exist', () => {
    const links = [...readme.matchAll(/\]\(((?!https?:)[^)#]+)\)/g)].map(([, path]) => path!);
    const missing = links.filter((path) => {
      try {
        readFileSync(join(root, path));
        return false;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code === 'ENOENT';
      }
    });
    expect(missing).toEqual([]);
  });
});
