import { GatewayError } from '../base/errors.ts';
import { printable } from '../base/printable.ts';
import type { ServerConfig } from '../config/schema.ts';
import type { Exit } from '../runtimes/runtime.ts';

/*
 * The errors of instances, in words for the person who has to mend it: which server, what happened, the last
 * lines that it wrote, and the next step.
 */

const shownLines = 10;
const shownLineChars = 300;

/** What is known of an instance that is gone. */
export interface Remains {
  server: ServerConfig;
  /** Its name for the engine's own tools. */
  instance: string;
  /** undefined: the engine has not said. */
  exit: Exit | undefined;
  stderr: string[];
  cause?: unknown;
}

/** An instance ended while it had calls or might have got some. */
export function crashed(remains: Remains): GatewayError {
  const { server, instance, exit } = remains;
  const lost = server.stateful ? ' What it kept in memory is lost.' : '';
  return new GatewayError(
    exit?.outOfMemory ? 'out_of_memory' : 'instance_crashed',
    `Server ${server.name} stopped unexpectedly (${instance}${reason(exit)}).${lost}${lastLines(remains)}`,
    { ...details(remains), hint: exit?.hint ?? nextStep(remains) },
  );
}

/** An instance ended before it answered the first request, `opening`. */
export function endedBeforeReady(remains: Remains, opening: string): GatewayError {
  const { server, instance, exit } = remains;
  return new GatewayError(
    exit?.outOfMemory ? 'out_of_memory' : 'start_failed',
    `Server ${server.name} ended before it answered ${opening} (${instance}${reason(exit)}).${lastLines(remains)}`,
    {
      ...details(remains),
      hint: exit?.hint ?? (exit?.outOfMemory || exit?.isHostLost ? nextStep(remains) : mendStart(remains)),
    },
  );
}

/** An instance runs and did not answer the first request, `opening`, in time. `noise` is the first line on stdout that is no message. */
export function neverReady(remains: Remains, opening: string, noise: string | undefined): GatewayError {
  const { server, instance } = remains;
  const limitMs = server.timeouts.handshakeMs;
  const garbage = noise === undefined ? '' : ` Its stdout has text that is no JSON-RPC: "${noise}".`;
  return new GatewayError(
    'handshake_timeout',
    `Server ${server.name} runs (${instance}) but did not answer ${opening} within ${seconds(limitMs)}.${garbage}${lastLines(remains)}`,
    {
      ...details(remains),
      hint:
        noise === undefined
          ? `Check that it speaks MCP over stdio and ends its lines with a newline; if it only boots slowly, raise timeouts.handshake of ${server.name}.`
          : 'Check that it speaks MCP over stdio and writes its own log lines to stderr.',
    },
  );
}

/** `10 s`, `1.5 s`, for messages. */
export function seconds(durationMs: number): string {
  return `${Math.round(durationMs / 100) / 10} s`;
}

/** `64 MiB`, `512 KiB`, for messages. */
export function sizeText(bytes: number): string {
  if (bytes >= 1024 ** 2) return `${Math.round(bytes / 1024 ** 2)} MiB`;
  return bytes >= 1024 ? `${Math.round(bytes / 1024)} KiB` : `${bytes} bytes`;
}

function reason(exit: Exit | undefined): string {
  if (!exit) return '';
  if (exit.outOfMemory) return ': out of memory';
  if (exit.isHostLost) return ': the connection to its engine broke';
  if (exit.signal !== undefined) return `: killed by ${exit.signal}`;
  return exit.code === undefined ? '' : `: exit code ${exit.code}`;
}

function nextStep({ server, exit }: Remains): string {
  if (exit?.outOfMemory) {
    const limit = 'limits' in server ? ` (now ${sizeText(server.limits.memoryBytes)})` : '';
    return `Raise limits.memory of ${server.name} in servers.yaml${limit}, or ask it for less.`;
  }
  if (exit?.isHostLost) {
    return 'See whether the engine runs (docker info); the next call starts the server again as soon as it does.';
  }
  return `The next call starts it again; mcp-gateway logs ${server.name} shows what it wrote.`;
}

function mendStart({ server }: Remains): string {
  return `Check its command, env and volumes in servers.yaml; mcp-gateway logs ${server.name} shows what it wrote.`;
}

function lastLines(remains: Remains): string {
  const lines = shown(remains);
  return lines.length === 0 ? '' : ` Last lines of stderr:\n${lines.map((line) => `  ${line}`).join('\n')}`;
}

function details(remains: Remains) {
  const { server, instance, exit, cause } = remains;
  const data: Record<string, unknown> = { instance };
  if (exit?.code !== undefined) data.exitCode = exit.code;
  if (exit?.signal !== undefined) data.signal = exit.signal;
  if (exit?.outOfMemory) data.outOfMemory = true;
  const stderr = shown(remains);
  if (stderr.length > 0) data.stderr = stderr;
  return { server: server.name, data, cause };
}

function shown({ server, stderr }: Remains): string[] {
  return stderr.slice(-shownLines).map((line) => printable(withoutSecrets(server, line), shownLineChars));
}

/** What the server wrote, without the secrets of its environment. */
export function withoutSecrets(server: ServerConfig, text: string): string {
  return secretsOf(server).reduce((rest, secret) => rest.replaceAll(secret, '***'), text);
}

const secretName = /key|token|secret|passw|credential|auth|cookie|dsn|_pat$/i;
/** Shorter values are words like `true`, which would blank half a message. */
const minSecretChars = 6;

/** Servers do print their own environment when they fail; what is named like a secret must not reach a client by that. */
function secretsOf(server: ServerConfig): string[] {
  const named = { ...server.env, ...('headers' in server ? server.headers : {}) };
  return Object.entries(named)
    .filter(([name, value]) => value.length >= minSecretChars && secretName.test(name))
    .map(([, value]) => value);
}
