/**
 * The catalogue of everything that can go wrong: its HTTP status and its JSON-RPC code.
 * -32700 to -32600 are JSON-RPC 2.0's own; -32000 is the implementation-defined code that every MCP client knows.
 */
export const errorCatalogue = {
  // what the caller sent
  parse_error: { http: 400, rpc: -32700 },
  invalid_request: { http: 400, rpc: -32600 },
  method_unknown: { http: 200, rpc: -32601 },
  invalid_params: { http: 200, rpc: -32602 },
  tool_unknown: { http: 404, rpc: -32602 },
  prompt_unknown: { http: 404, rpc: -32602 },
  resource_unknown: { http: 404, rpc: -32002 },
  server_unknown: { http: 404, rpc: -32602 },
  route_unknown: { http: 404, rpc: -32600 },
  method_not_allowed: { http: 405, rpc: -32600 },
  session_missing: { http: 400, rpc: -32000 },
  session_unknown: { http: 404, rpc: -32001 },
  session_limit: { http: 503, rpc: -32000 },
  version_unsupported: { http: 400, rpc: -32000 },
  version_unknown: { http: 400, rpc: -32022 },
  metadata_invalid: { http: 400, rpc: -32602 },
  header_mismatch: { http: 400, rpc: -32020 },
  capability_missing: { http: 400, rpc: -32021 },
  state_refused: { http: 400, rpc: -32602 },
  body_too_large: { http: 413, rpc: -32600 },
  media_type_unsupported: { http: 415, rpc: -32600 },
  not_acceptable: { http: 406, rpc: -32600 },
  host_forbidden: { http: 403, rpc: -32000 },
  origin_forbidden: { http: 403, rpc: -32000 },

  // a server that cannot serve
  server_disabled: { http: 503, rpc: -32000 },
  server_failing: { http: 503, rpc: -32000 },
  discovery_failed: { http: 503, rpc: -32000 },
  variable_missing: { http: 503, rpc: -32000 },
  image_missing: { http: 503, rpc: -32000 },
  image_unusable: { http: 503, rpc: -32000 },
  build_failed: { http: 503, rpc: -32000 },
  volume_unusable: { http: 503, rpc: -32000 },
  network_missing: { http: 503, rpc: -32000 },
  engine_unreachable: { http: 503, rpc: -32000 },
  disk_full: { http: 507, rpc: -32000 },
  runtime_unavailable: { http: 503, rpc: -32000 },
  start_failed: { http: 502, rpc: -32000 },
  start_timeout: { http: 504, rpc: -32000 },
  handshake_failed: { http: 502, rpc: -32000 },
  handshake_timeout: { http: 504, rpc: -32000 },

  // a call that did not end well
  instance_crashed: { http: 502, rpc: -32000 },
  out_of_memory: { http: 502, rpc: -32000 },
  flooded: { http: 502, rpc: -32000 },
  message_too_large: { http: 502, rpc: -32000 },
  call_timeout: { http: 504, rpc: -32000 },
  cancelled: { http: 499, rpc: -32000 },
  queue_full: { http: 503, rpc: -32000 },
  queue_timeout: { http: 503, rpc: -32000 },
  draining: { http: 503, rpc: -32000 },
  upstream_error: { http: 502, rpc: -32000 },

  // the gateway itself
  config_invalid: { http: 500, rpc: -32000 },
  unauthenticated_bind: { http: 500, rpc: -32000 },
  state_locked: { http: 500, rpc: -32000 },
  port_in_use: { http: 500, rpc: -32000 },
  gateway_unreachable: { http: 502, rpc: -32000 },
  internal: { http: 500, rpc: -32603 },
} as const satisfies Record<string, { http: number; rpc: number }>;

/** A code of the catalogue. */
export type ErrorCode = keyof typeof errorCatalogue;

/** What an error tells beside its message. */
export interface ErrorDetails {
  /** The server that the error is about. */
  server?: string;
  /** What the user can do next, one sentence. */
  hint?: string;
  /** Anything else a program could use; must be JSON and free of secrets. */
  data?: Record<string, unknown>;
  cause?: unknown;
}

/** An error that a user can act on: a code of the catalogue, a message that names the thing, and the next step. */
export class GatewayError extends Error {
  override readonly name = 'GatewayError';
  readonly code: ErrorCode;
  readonly server: string | undefined;
  readonly hint: string | undefined;
  readonly data: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.server = details.server;
    this.hint = details.hint;
    this.data = details.data;
  }

  get httpStatus(): number {
    return errorCatalogue[this.code].http;
  }

  get rpcCode(): number {
    return errorCatalogue[this.code].rpc;
  }
}

/** The error itself when it is ours, else an `internal` one that keeps it as its cause. */
export function asGatewayError(error: unknown, server?: string): GatewayError {
  if (error instanceof GatewayError) return error;
  return new GatewayError('internal', `Unexpected error: ${messageOf(error)}`, { server, cause: error });
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The system's code of a failed call (`ENOENT`, `ECONNREFUSED`), if it has one. */
export function systemCodeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}
