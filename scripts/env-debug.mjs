// Prints what a report of a problem needs: versions, the engine, and which variables are set. Never a secret's value.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

const root = path.dirname(import.meta.dirname);
const OPEN_VARIABLES = [
  'GATEWAY_HOST',
  'GATEWAY_PORT',
  'GATEWAY_STATE_DIR',
  'LOG_LEVEL',
  'DEFAULT_IDLE_TIMEOUT',
  'MCP_REGISTRY',
  'DOCKER_HOST',
  'DOCKER_CONTEXT',
  'NODE_EXTRA_CA_CERTS',
  'NODE_IMAGE',
  'PYTHON_IMAGE',
];

/** First line of what a command prints, or why there is none. */
function firstLine(command, ...args) {
  const { stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', cwd: root });
  return (error ? error.message : (stdout || stderr).trim().split('\n')[0]) || '(nothing)';
}

const row = (name, value) => console.log(`${name.padEnd(24)}${value}`);

row('platform', `${process.platform} ${process.arch}`);
row('node (this shell)', process.version);
row('node (pinned)', firstLine(path.join(root, 'node_modules/node/bin/node'), '--version'));
row('npm', firstLine('npm', '--version'));
row('engine', firstLine(path.join(root, 'scripts/ensure-docker.sh'), '--find', '--print'));
row(
  'docker',
  firstLine('docker', 'version', '--format', 'client {{.Client.Version}}, server {{.Server.Version}}'),
);

console.log('\nVariables of the gateway');
for (const name of OPEN_VARIABLES) row(`  ${name}`, process.env[name] ?? '-');

const registry = path.resolve(root, process.env.MCP_REGISTRY ?? 'servers.yaml');
if (existsSync(registry)) {
  console.log(`\nVariables that ${registry} names`);
  const dotenv = path.join(path.dirname(registry), '.env');
  const inDotenv = new Set(
    existsSync(dotenv)
      ? [...readFileSync(dotenv, 'utf8').matchAll(/^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=/gm)].map(
          ([, name]) => name,
        )
      : [],
  );
  const uncommented = readFileSync(registry, 'utf8').replace(/(^|\s)#.*$/gm, '');
  const named = new Map();
  for (const [, name, fallback] of uncommented.matchAll(/\$\{([A-Za-z_]\w*)(:-)?/g))
    named.set(name, Boolean(fallback));
  for (const [name, hasDefault] of named) {
    const source =
      name in process.env
        ? 'set'
        : inDotenv.has(name)
          ? 'set in .env'
          : hasDefault
            ? 'not set; has a default'
            : 'MISSING';
    row(`  ${name}`, source);
  }
}
