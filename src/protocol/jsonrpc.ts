/** JSON-RPC 2.0 as MCP uses it. Messages travel as the objects that JSON.parse made; nothing here copies them. */

export type Id = string | number;
export type Json = unknown;
export type Params = Record<string, Json>;

export interface Request {
  jsonrpc: '2.0';
  id: Id;
  method: string;
  params?: Params;
}

export interface Notification {
  jsonrpc: '2.0';
  method: string;
  params?: Params;
}

export interface Success {
  jsonrpc: '2.0';
  id: Id;
  result: Params;
}

export interface ErrorObject {
  code: number;
  message: string;
  data?: Json;
}

export interface Failure {
  jsonrpc: '2.0';
  /** null only where the request's own id could not be read (JSON-RPC 2.0, section 5). */
  id: Id | null;
  error: ErrorObject;
}

export type Response = Success | Failure;
export type Message = Request | Notification | Response;
