/** RFC 5424 severities as MCP names them, least severe first. */
export const logLevels = [
  'debug',
  'info',
  'notice',
  'warning',
  'error',
  'critical',
  'alert',
  'emergency',
] as const;
/** One of them. */
export type LogLevel = (typeof logLevels)[number];

/** What a client gets that never set a level. */
export const defaultLogLevel: LogLevel = 'info';

/** Whether MCP knows the level. */
export function isLogLevel(value: unknown): value is LogLevel {
  return logLevels.includes(value as LogLevel);
}

/** Whether a log line of `level` is wanted by who asked for `threshold`. A level that MCP does not know passes. */
export function isLogged(level: unknown, threshold: string | undefined): boolean {
  const severity = logLevels.indexOf(level as LogLevel);
  return severity === -1 || severity >= logLevels.indexOf((threshold ?? defaultLogLevel) as LogLevel);
}
