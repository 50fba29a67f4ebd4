import { Writable } from 'node:stream';
import winston from 'winston';
import { printable } from '../base/printable.ts';
import type { Events } from './events.ts';

/** How much is logged: this level and those before it. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
/** What a log line tells beside its message; undefined ones are left out. */
export type Fields = Record<string, string | number | boolean | undefined>;

/** What the rest of the gateway logs through. */
export interface Logger extends Record<LogLevel, (message: string, fields?: Fields) => void> {
  /** Whether lines of this level are written at all. */
  writes(level: LogLevel): boolean;
}

/** From the gravest on. */
const levels: readonly LogLevel[] = ['error', 'warn', 'info', 'debug'];

/** A logger of single lines: time, level, message, `key=value` fields. Writes to `stream`, stderr unless given. */
export function createLogger(level: LogLevel, stream: NodeJS.WritableStream = process.stderr): Logger {
  const { combine, timestamp, printf } = winston.format;
  const logger = winston.createLogger({
    level,
    format: combine(timestamp(), printf(formatLine)),
    transports: [new winston.transports.Stream({ stream })],
  });
  const writes = (one: LogLevel) => levels.indexOf(one) <= levels.indexOf(level);
  // winston formats a line before it looks at its level.
  const at = (one: LogLevel) => (message: string, fields?: Fields) => {
    if (writes(one)) logger.log(one, message, fields);
  };
  return { error: at('error'), warn: at('warn'), info: at('info'), debug: at('debug'), writes };
}

function formatLine({ level, message, timestamp, ...fields }: winston.Logform.TransformableInfo): string {
  const pairs = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${/[\s"=]/.test(String(value)) ? JSON.stringify(value) : value}`);
  // Nothing logged may forge a line or move the cursor.
  return printable([timestamp, level.toUpperCase().padEnd(5), message, ...pairs].join(' '));
}

/** Writes the events that a person watching the gateway wants to see. */
export function logEvents(events: Events, logger: Logger): void {
  events.on('instance.started', ({ durationMs, ...fields }) =>
    logger.info('instance started', { ...fields, ms: Math.round(durationMs) }),
  );
  events.on('instance.stopped', (fields) => logger.info('instance stopped', fields));
  events.on('instance.paused', (fields) => logger.debug('instance paused', fields));
  events.on('instance.resumed', ({ durationMs, ...fields }) =>
    logger.debug('instance resumed', { ...fields, ms: Math.round(durationMs) }),
  );
  events.on('instance.noise', (fields) => logger.debug('not a message on stdout', fields));
  events.on('server.state', (fields) => logger.debug('server state', fields));
  events.on('prepare.progress', ({ server, text }) => logger.debug(text, { server }));
  events.on('discovery.finished', ({ durationMs, ...fields }) =>
    logger.debug('lists read', { ...fields, ms: Math.round(durationMs) }),
  );
  events.on('discovery.failed', (fields) => logger.warn('lists could not be read', fields));
  events.on('catalog.changed', ({ server, lists }) =>
    logger.debug('lists changed', { server, lists: lists.join(',') }),
  );
  // Not for nothing with each call.
  if (logger.writes('debug')) {
    events.on('call.finished', ({ durationMs, ...fields }) =>
      logger.debug('call', { ...fields, ms: Math.round(durationMs) }),
    );
  }
  events.on('client.dropped', (fields) => logger.warn('client dropped', fields));
  events.on('engine.lost', (fields) => logger.warn('engine lost', fields));
  events.on('engine.back', (fields) => logger.info('engine back', fields));
}

/** A stream that hands over each line as it is written. */
export function lineSink(write: (line: string) => void): NodeJS.WritableStream {
  return new Writable({
    decodeStrings: false,
    write(chunk, _encoding, done) {
      write(String(chunk).replace(/\n$/, ''));
      done();
    },
  });
}
