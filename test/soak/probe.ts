/**
 * Loaded into the gateway (`--import`): a Unix socket, given by SOAK_PROBE, that answers each connection with what the
 * process holds after its garbage is collected. Of no effect otherwise.
 */
import { readdirSync, rmSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import v8 from 'node:v8';

/** What one look into the process shows. Connections of clients are left out: how many there are is up to them. */
export interface Held {
  heapBytes: number;
  residentBytes: number;
  /** Those that do not keep the process alive too. */
  timers: number;
  sockets: number;
  descriptors: number;
}

const path = process.env.SOAK_PROBE;
if (path !== undefined) {
  const timer = setTimeout(() => {}, 0);
  clearTimeout(timer);
  const { _getActiveHandles: handles } = process as unknown as { _getActiveHandles(): object[] };
  const count = (one: unknown) => v8.queryObjects(one as never, { format: 'count' }) as number;
  rmSync(path, { force: true });
  createServer((connection) => {
    connection.on('error', () => {});
    const sockets = handles.call(process).filter((handle) => handle instanceof Socket);
    // Only those that were accepted have a server.
    const accepted = sockets.filter((socket) => 'server' in socket && socket.server);
    const ofClients = accepted.length;
    const timersOfClients = accepted.filter(({ timeout }) => timeout).length;
    // Collects garbage first, so the heap is asked afterwards.
    const timers = count(timer.constructor);
    const held: Held = {
      heapBytes: process.memoryUsage().heapUsed,
      residentBytes: process.memoryUsage.rss(),
      timers: timers - timersOfClients,
      sockets: sockets.length - ofClients,
      descriptors: readdirSync('/proc/self/fd').length - ofClients,
    };
    connection.end(JSON.stringify(held));
  })
    .listen(path)
    .unref();
}
