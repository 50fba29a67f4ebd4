import { engine } from '../e2e/engine.ts';
import type { Draw } from './draw.ts';
import type { Ledger } from './ledger.ts';
import { mortal } from './servers.ts';

/** What is done on purpose, and when, since the soak began. */
export type Fault =
  | { atMs: number; kind: 'restart' }
  | { atMs: number; kind: 'kill' | 'remove' | 'freeze'; server: (typeof mortal)[number] };

/**
 * Draws all faults of a soak. The gateway is killed in the first third only: what it holds is compared between the other two, in one
 * process.
 */
export function drawFaults(draw: Draw, totalMs: number): Fault[] {
  const faults: Fault[] = [];
  for (let atMs = draw.between(3000, 8000); atMs < totalMs - 5000; atMs += draw.between(3000, 12_000)) {
    const kind = draw.weighted({ kill: 5, remove: 2, freeze: 3 });
    faults.push({ atMs, kind, server: draw.pick(mortal) });
  }
  const restarts = Math.max(1, Math.round(totalMs / 300_000));
  for (let restart = 0; restart < restarts; restart += 1) {
    const [from, to] = [restart / restarts, (restart + 1) / restarts].map((part) => part * (totalMs / 3));
    faults.push({ atMs: from! + draw.between(0.3, 0.8) * (to! - from!), kind: 'restart' });
  }
  return faults.sort((a, b) => a.atMs - b.atMs);
}

/** Kills, removes or freezes a container of the server, or of the next one that has any that runs; whether there was one. */
export async function harm(
  fault: Exclude<Fault, { kind: 'restart' }>,
  gatewayId: string,
  draw: Draw,
  ledger: Ledger,
): Promise<boolean> {
  const filters = { label: [`mcp-gateway.gateway=${gatewayId}`], status: ['running', 'paused'] };
  const running = await engine.listContainers({ filters });
  const first = mortal.indexOf(fault.server);
  const victims = [...mortal.slice(first), ...mortal.slice(0, first)].map((server) => ({
    server,
    containers: running.filter(({ Labels }) => Labels['mcp-gateway.server'] === server),
  }));
  const victim = victims.find(({ containers }) => containers.length > 0);
  if (!victim) return false;
  const container = engine.getContainer(draw.pick(victim.containers).Id);
  // It may be gone, or in another state, by the time it is asked for.
  const tried = (work: Promise<unknown>) => work.catch(() => {});
  if (fault.kind === 'freeze') {
    // Slower answers are all that may come of it.
    await tried(container.pause());
    await new Promise((resolve) => setTimeout(resolve, draw.between(200, 2000)));
    // An engine under load may take a container that it has just frozen for running, and refuse.
    for (let tries = 0; tries < 100; tries += 1) {
      await tried(container.unpause());
      const paused = await container.inspect().then(
        ({ State }) => State.Paused,
        () => false,
      );
      if (!paused) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return true;
  }
  const over = ledger.fault(victim.server);
  await tried(fault.kind === 'kill' ? container.kill() : container.remove({ force: true }));
  over();
  return true;
}
