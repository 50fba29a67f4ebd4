import { execFile } from 'node:child_process';
import { mkdir, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { promisify } from 'node:util';
import { createRuntimes } from '../app.ts';
import { messageOf, systemCodeOf } from '../base/errors.ts';
import { ConfigError, loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { Events } from '../observability/events.ts';
import { GatewayClient } from './client.ts';
import type { ConfigOptions, ExitCode } from './program.ts';
import { table } from './table.ts';

interface Finding {
  check: string;
  verdict: 'ok' | 'warning' | 'problem';
  found: string;
  /** How to mend it. */
  hint?: string;
}

/** What is asked of the engine about images. */
interface Images {
  hasImage(name: string): Promise<boolean>;
}

/** Less is not enough for what the gateway itself keeps. */
const stateBytes = 512 * 1024;

/** `doctor`: looks at everything that start needs; 1 when something will not work. */
export async function doctor(options: ConfigOptions & { json?: boolean }): Promise<ExitCode> {
  const findings: Finding[] = [];
  const config = await checkConfig(options, findings);
  await Promise.all([
    config && checkEngine(config, findings),
    config && checkPort(config, findings),
    config && checkDisk(config, findings),
    checkClaudeCode(findings),
  ]);
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ findings }, null, 2)}\n`);
  } else {
    const marks = { ok: '✓', warning: '!', problem: '✗' };
    const rows = findings.map(({ check, verdict, found }) => [marks[verdict], check, found]);
    process.stdout.write(`${table(['', 'CHECK', 'FOUND'], rows)}\n`);
    for (const { check, verdict, hint } of findings) {
      if (verdict !== 'ok' && hint) process.stdout.write(`\n${marks[verdict]} ${check}: ${hint}\n`);
    }
  }
  return findings.some(({ verdict }) => verdict === 'problem') ? 1 : 0;
}

async function checkConfig(options: ConfigOptions, findings: Finding[]): Promise<Config | undefined> {
  const check = 'configuration';
  try {
    const config = await loadConfig({
      file: options.config ?? options.registry,
      overrides: options,
      mode: 'start',
    });
    findings.push({ check, verdict: 'ok', found: `${config.file}: ${config.servers.size} servers` });
    for (const { name, problem } of config.servers.values()) {
      if (!problem) continue;
      findings.push({
        check: `server ${name}`,
        verdict: 'problem',
        found: problem.message,
        hint: problem.hint,
      });
    }
    for (const warning of config.warnings) findings.push({ check, verdict: 'warning', found: warning });
    return config;
  } catch (error) {
    const hint = error instanceof ConfigError ? error.hint : undefined;
    findings.push({ check, verdict: 'problem', found: messageOf(error), hint });
    return undefined;
  }
}

async function checkEngine(config: Config, findings: Finding[]): Promise<void> {
  const { docker } = createRuntimes(config.gateway, {
    gatewayId: 'doctor',
    stateDir: config.gateway.stateDir,
    events: new Events(),
  });
  try {
    const { reachable, text, lacks, hint } = await docker.describe();
    findings.push({ check: 'engine', verdict: reachable ? 'ok' : 'problem', found: text, hint });
    if (reachable) await checkImages(config, docker, findings);
    for (const lack of lacks) findings.push({ check: 'engine', verdict: 'warning', found: lack });
  } finally {
    await docker.close();
  }
}

/** Images that nobody builds here: the gateway pulls them at first use, if it may and a registry answers. */
async function checkImages(config: Config, docker: Images, findings: Finding[]): Promise<void> {
  for (const server of config.servers.values()) {
    if (!server.enabled || server.type !== 'docker' || server.build || !server.image) continue;
    const check = `image of ${server.name}`;
    if (await docker.hasImage(server.image)) {
      findings.push({ check, verdict: 'ok', found: server.image });
    } else if (server.pull === 'never') {
      const hint = `Pull or build it (docker pull ${server.image}), or take out \`pull: never\`.`;
      findings.push({ check, verdict: 'problem', found: `${server.image} is missing`, hint });
    } else {
      const hint = 'The first call pulls it, which takes a while; docker pull does it now.';
      findings.push({ check, verdict: 'warning', found: `${server.image} is missing`, hint });
    }
  }
}

async function checkPort(config: Config, findings: Finding[]): Promise<void> {
  const { host, port } = config.gateway;
  const check = `port ${port}`;
  const code = await bindError(host, port);
  if (code === undefined) {
    findings.push({ check, verdict: 'ok', found: 'free' });
    return;
  }
  const client = await GatewayClient.find({ host, port });
  const gateway = await client.get<{ name?: string; version?: string }>('/').catch(() => undefined);
  if (gateway?.name !== 'mcp-gateway') {
    findings.push({
      check,
      verdict: 'problem',
      found: `cannot be bound on ${host} (${code})`,
      hint: 'Stop what listens there, or choose another with gateway.port or --port.',
    });
    return;
  }
  findings.push({ check, verdict: 'ok', found: `a gateway ${gateway.version} listens` });
  const { servers } = await client
    .get<{ servers: { name: string; interactive: boolean; isolation: string }[] }>('/servers')
    .catch(() => ({ servers: [] }));
  for (const { name, interactive, isolation } of servers) {
    // Declared, it is what somebody wants.
    if (!interactive || isolation !== 'shared' || config.servers.get(name)?.interactive) continue;
    findings.push({
      check: `server ${name}`,
      verdict: 'warning',
      found: 'asks its clients, and so gets one call at a time',
      hint: `isolation: session gives each client an instance of ${name} of its own.`,
    });
  }
}

function bindError(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(systemCodeOf(error) ?? error.message));
    server.listen(port, host, () => server.close(() => resolve(undefined)));
  });
}

async function checkDisk(config: Config, findings: Finding[]): Promise<void> {
  const { stateDir } = config.gateway;
  const check = 'state_dir';
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    const { bavail, bsize } = await statfs(stateDir);
    const freeBytes = bavail * bsize;
    if (freeBytes < stateBytes) {
      findings.push({
        check,
        verdict: 'problem',
        found: `${stateDir} is on a full disk: sessions and lists are not kept over a restart`,
        hint: 'Free some disk, or name a folder elsewhere with gateway.state_dir.',
      });
      return;
    }
    const freeGiB = freeBytes / 1024 ** 3;
    findings.push({
      check,
      verdict: freeGiB < 1 ? 'warning' : 'ok',
      found: `${stateDir}, ${freeGiB.toFixed(1)} GiB free`,
      hint: freeGiB < 1 ? 'Images need room: free some disk.' : undefined,
    });
  } catch (error) {
    const found = `${stateDir} cannot be used: ${messageOf(error)}`;
    findings.push({ check, verdict: 'problem', found, hint: 'Make it writable, or set gateway.state_dir.' });
  }
}

async function checkClaudeCode(findings: Finding[]): Promise<void> {
  const check = 'Claude Code';
  try {
    const { stdout } = await promisify(execFile)('claude', ['mcp', 'get', 'mcp-gateway'], {
      timeout: 20_000,
    });
    findings.push({ check, verdict: 'ok', found: /Status: (.*)/.exec(stdout)?.[1]?.trim() ?? 'configured' });
  } catch (error) {
    const absent = systemCodeOf(error) === 'ENOENT';
    findings.push({
      check,
      verdict: absent ? 'ok' : 'warning',
      found: absent ? 'not installed here' : 'installed, not connected to the gateway',
      hint: 'claude mcp add --transport http mcp-gateway http://localhost:8000/mcp',
    });
  }
}
