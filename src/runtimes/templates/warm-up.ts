/** One that answers neither the handshake nor the end of its stdin is killed; its cache is written all the same. */
const warmUpLimitMs = 15_000;

/** How a server is run once while its image is built. */
export interface WarmUp {
  /** As whom it will run: `65534:65534`, `node`. */
  user: string;
  /** Its program and arguments. */
  command: string[];
  /** Where; undefined: where the build is. */
  folder: string | undefined;
  /** Where Node is to keep the compiled code; what is above it exists. */
  cache: string;
}

/** The argument of `warmUpScript`. */
export const warmUpArgument = (warmUp: WarmUp) => JSON.stringify(warmUp);

/**
 * For Node, as root, in a build: lets a server handle one handshake and its lists, so that Node writes the compiled code down. Node
 * looks for that in a folder named for its version and user, so the server runs as the user that it will have; afterwards what it wrote
 * belongs to another one, and nobody may write it. A server that needs more than it has here is no failure.
 */
export const warmUpScript = `
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { user, command, folder, cache } = JSON.parse(process.argv[2]);

const entry = (file, name) => {
  const lines = fs.existsSync(file) ? fs.readFileSync(file, 'utf8').split('\\n') : [];
  return lines.map((line) => line.split(':')).find(([first]) => first === name);
};
const [userName, groupName] = user.split(':');
const isNumber = (text) => /^\\d+$/.test(text ?? '');
const known = entry('/etc/passwd', userName);
const uid = isNumber(userName) ? Number(userName) : Number(known?.[2]);
const gid = isNumber(groupName) ? Number(groupName) : Number((groupName ? entry('/etc/group', groupName)?.[2] : known?.[3]) ?? 0);
if (Number.isNaN(uid)) {
  console.error('mcp-gateway: the image knows no user ' + userName);
  process.exit(1);
}

fs.mkdirSync(cache, { recursive: true });
fs.chownSync(cache, uid, gid);
const flush = path.join(path.dirname(cache), 'flush.cjs');
fs.writeFileSync(flush, "const { flushCompileCache } = require('node:module');" +
  "process.on('SIGTERM', () => { flushCompileCache(); process.exit(0); });");

const finish = () => {
  clearTimeout(limit);
  server.stdin.end();
  setTimeout(() => server.kill('SIGTERM'), 500).unref();
  setTimeout(() => server.kill('SIGKILL'), 3000).unref();
};
const limit = setTimeout(() => finish(), ${warmUpLimitMs});
const server = spawn(command[0], command.slice(1), {
  uid,
  gid,
  cwd: folder,
  stdio: ['pipe', 'pipe', 'ignore'],
  env: { ...process.env, HOME: '/tmp', NODE_COMPILE_CACHE: cache, NODE_OPTIONS: '--require ' + flush },
});
const send = (message) => server.stdin.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n');
server.stdin.on('error', () => {});
let seen = '';
let step = 0;
server.stdout.on('data', (chunk) => {
  seen = (seen + chunk).slice(-1000000);
  if (step === 0 && /"id":\\s*1\\b/.test(seen)) {
    step = 1;
    send({ method: 'notifications/initialized' });
    send({ id: 2, method: 'tools/list' });
  } else if (step === 1 && /"id":\\s*2\\b/.test(seen)) {
    step = 2;
    finish();
  }
});
send({ id: 1, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'build', version: '1' } } });

const lock = (file) => {
  fs.chownSync(file, uid === 0 ? 65534 : 0, 0);
  const isFolder = fs.statSync(file).isDirectory();
  fs.chmodSync(file, isFolder ? 0o555 : 0o444);
  if (isFolder) for (const name of fs.readdirSync(file)) lock(path.join(file, name));
};
let isOver = false;
const end = () => {
  if (isOver) return;
  isOver = true;
  clearTimeout(limit);
  fs.unlinkSync(flush);
  lock(cache);
  process.exit(0);
};
server.on('error', (error) => {
  console.error('mcp-gateway: ' + command[0] + ' does not start: ' + error.message);
  end();
});
server.on('exit', end);
`;
