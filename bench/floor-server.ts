/**
 * The floor of a warm call: hono, JSON.parse, one attached container, and no routing at all. Run as a process of its own,
 * as the gateway is: `node bench/floor-server.ts <container id to copy>`; prints its port.
 */
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { engine, startRaw } from './floor.ts';

const instance = await startRaw(await engine.getContainer(process.argv[2]!).inspect());
const app = new Hono();
app.post('/mcp', async (context) => {
  const { id, method, params } = JSON.parse(await context.req.text());
  const answer = await instance.request(method, params);
  answer.id = id;
  return context.json(answer);
});
const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, ({ port }) => console.log(port));
process.on('SIGTERM', async () => {
  server.close();
  await instance.remove();
  process.exit(0);
});
