import { Writable } from 'node:stream';
import winston from 'winston';
import { printable } from '../base/printable.ts';
import type { Events } from './events.ts';

/** How much is logged: this level and those before it. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
/** What a log line tells beside its message; undefined ones are left out. */
export type Fields = Record<string, string | number | boolean | undefined>;

/** What the rest of the gateway logs through. */
export type Logger = Record<LogLevel, (message: string, fields?: Fields) => void>;

/** A logger of single lines: time, level, message, `key=value` fields. Writes to `stream`, stderr unless given. */
export function createLogger(level: LogLevel, stream: NodeJS.WritableStream = process.stderr): Logger {
  const { combine, timestamp, printf } = winston.format;
  const logger = winston.createLogger({
    level,
    format: combine(timestamp(), printf(formatLine)),
    transports: [new winston.transports.Stream({ stream })],
  });
  return {
    error: (message, fields) => void logger.error(message, fields),
    warn: (message, fields) => void logger.warn(message, fields),
    info: (message, fields) => void logger.info(message, fields),
    debug: (message, fields) => void logger.debug(message, fields),
  };
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
  events.on('call.finished', ({ durationMs, ...fields }) =>
    logger.debug('call', { ...fields, ms: Math.round(durationMs) }),
  );
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
