import { type App, createApp } from '../app.ts';
import { sleep } from '../base/async.ts';
import { GatewayError, messageOf } from '../base/errors.ts';
import { loadConfig } from '../config/load.ts';
import { parseDurationMs } from '../config/schema.ts';
import { Events } from '../observability/events.ts';
import { createLogger, lineSink, logEvents } from '../observability/logger.ts';
import { allowHeapGrowthOnceCalled } from './heap-growth.ts';
import type { ConfigOptions, ExitCode } from './program.ts';
import { createProgress, type Progress } from './progress.ts';
import { version } from './version.ts';

interface StartOptions extends ConfigOptions {
  logLevel?: string;
  allowUnauthenticated?: boolean;
  fallback?: boolean;
  endWhenUnused?: string;
}

/** `start`: runs until SIGTERM or SIGINT, drains within its bound; a second signal ends it at once. */
export async function start(options: StartOptions): Promise<ExitCode> {
  const unusedLimitMs = durationOf(options.endWhenUnused, '--end-when-unused');
  const config = await loadConfig({
    file: options.config ?? options.registry,
    overrides: options,
    mode: 'start',
  });
  const events = new Events();
  const progress = await createProgress();
  // While bars are drawn, log lines go between them instead of through them.
  const logger = createLogger(
    config.gateway.logLevel,
    lineSink((line) => progress.print(line)),
  );
  logEvents(events, logger);
  allowHeapGrowthOnceCalled(events);
  for (const warning of config.warnings) logger.warn(warning);
  showDiscovery(events, progress);

  const app = await createApp(config, {
    events,
    logger,
    version,
    allowUnauthenticated: options.allowUnauthenticated ?? false,
    fallback: options.fallback ?? false,
  });
  const ended = untilSignal(
    async (signal) => {
      progress.print(
        `${signal}: finishing what runs, at most ${config.gateway.drainTimeoutMs / 1000} s; again to end now`,
      );
      await app.drain();
    },
    () => app.kill(),
  );

  try {
    await app.start();
  } catch (error) {
    progress.stop();
    await app.kill();
    throw error;
  }
  const { origin } = app;
  progress.print(`Listening on ${origin}`);
  for (const line of app.notes()) progress.print(line);

  void app.discovered().then((summary) => {
    if (!summary) return;
    progress.stop();
    for (const line of banner(summary, origin)) progress.print(line);
  });
  const isUnused =
    unusedLimitMs !== undefined && (await Promise.race([ended, untilUnused(app, unusedLimitMs)]));
  if (isUnused) {
    progress.print('No client is left: ending');
    await app.drain();
  } else await ended;
  progress.stop();
  return 0;
}

/** Resolves with true when nobody has used the gateway for so long. */
async function untilUnused(app: App, limitMs: number): Promise<true> {
  for (;;) {
    const leftMs = limitMs - app.unusedMs();
    if (leftMs <= 0) return true;
    await sleep(leftMs);
  }
}

function durationOf(text: string | undefined, flag: string): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDurationMs(text);
  if (ms !== undefined) return ms;
  throw new GatewayError('config_invalid', `${flag}: found "${text}", expected a duration.`, {
    hint: 'Durations are 60, 60s, 5m or 500ms.',
  });
}

function banner(summary: { servers: number; failed: string[]; tools: number }, origin: string): string[] {
  const { servers, failed, tools } = summary;
  const url = origin.replace(/127\.0\.0\.1|0\.0\.0\.0/, 'localhost');
  return [
    '',
    `Ready: ${tools} tools of ${servers} servers${failed.length > 0 ? `; failed: ${failed.join(', ')} (see ${url}/servers)` : ''}`,
    'Connect Claude Code:',
    '',
    `  claude mcp add --transport http mcp-gateway ${url}/mcp`,
    '',
  ];
}

function showDiscovery(events: Events, progress: Progress): void {
  const startedAt = new Map<string, number>();
  const seconds = (server: string) =>
    `${((Date.now() - (startedAt.get(server) ?? Date.now())) / 1000).toFixed(1)} s`;
  // Only the first discovery of each server is a user's wait; later ones are upkeep and belong in the log.
  const shown = new Set<string>();
  events.on('discovery.started', ({ server }) => {
    if (shown.has(server)) return;
    startedAt.set(server, Date.now());
    progress.update(server, 'discovering tools');
  });
  events.on('prepare.progress', ({ server, text, fraction }) => {
    if (startedAt.has(server) && !shown.has(server)) progress.update(server, text, fraction);
  });
  events.on('discovery.finished', ({ server, tools }) => {
    if (shown.has(server)) return;
    shown.add(server);
    progress.done(server, `${tools} tools (${seconds(server)})`);
  });
  events.on('discovery.failed', ({ server, reason }) => {
    if (shown.has(server)) return;
    shown.add(server);
    progress.fail(server, reason);
  });
}

/** Resolves when the process may end: after `onFirst` has finished, or `onSecond`, whichever comes first. */
function untilSignal(
  onFirst: (signal: string) => Promise<void>,
  onSecond: () => Promise<void>,
): Promise<void> {
  return new Promise((resolve) => {
    let signals = 0;
    const onSignal = (signal: string) => {
      signals += 1;
      const work = signals === 1 ? onFirst(signal) : onSecond();
      work.catch((error) => process.stderr.write(`error: ${messageOf(error)}\n`)).finally(resolve);
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);
  });
}
