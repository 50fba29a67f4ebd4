// Entrypoint of the gateway's image: as root it reads which group may use the engine's socket, gives the state folder to
// the gateway's user, and then becomes that user. It is replaced by the gateway, which so is process 1 and gets the signals.
import { chownSync, existsSync, lstatSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';

const UNPRIVILEGED_ID = 1000;
const GATEWAY = path.join(import.meta.dirname, '../bin/mcp-gateway.js');

const socket = (process.env.DOCKER_HOST ?? 'unix:///var/run/docker.sock').replace(/^unix:\/\//, '');
const stateDir = process.env.GATEWAY_STATE_DIR ?? '/state';
const gatewayArguments = process.argv.slice(2);

const READ_BY_OTHERS = 0o4;

/** True when any user may read the file; what does not exist needs no reading. */
const isPublic = (file) => !existsSync(file) || (statSync(file).mode & READ_BY_OTHERS) !== 0;

/** The owner of servers.yaml's folder, who can read the .env beside it; in place of root the image's own user. */
function chooseUser() {
  const flag = gatewayArguments.findIndex((argument) => argument === '--config' || argument === '--registry');
  const file =
    (flag === -1 ? process.env.MCP_REGISTRY : gatewayArguments[flag + 1]) ?? '/config/servers.yaml';
  const folder = path.dirname(file);
  const owner = existsSync(folder) ? statSync(folder) : { uid: 0, gid: 0 };
  if (owner.uid !== 0) return { uid: owner.uid, gid: owner.gid };
  const hidden = [folder, file, path.join(folder, '.env')].find((candidate) => !isPublic(candidate));
  if (hidden === undefined) return { uid: UNPRIVILEGED_ID, gid: UNPRIVILEGED_ID };
  process.stderr.write(
    `warning: ${hidden} can be read by root alone, so the gateway keeps running as root; ` +
      `give it to another user on the host (chown -R ${UNPRIVILEGED_ID}) to have it run without\n`,
  );
  return { uid: 0, gid: 0 };
}

function own(file, { uid, gid }) {
  const found = lstatSync(file);
  if (found.uid !== uid) chownSync(file, uid, gid);
  if (found.isDirectory()) for (const name of readdirSync(file)) own(path.join(file, name), { uid, gid });
}

if (process.getuid() === 0) {
  const user = chooseUser();
  mkdirSync(stateDir, { recursive: true });
  own(stateDir, user);
  const groups = existsSync(socket) ? [statSync(socket).gid] : [];
  process.setgroups(groups);
  process.setgid(user.gid);
  process.setuid(user.uid);
}
process.execve(process.execPath, [process.execPath, GATEWAY, ...gatewayArguments], {
  ...process.env,
  HOME: stateDir,
});
