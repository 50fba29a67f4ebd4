import type { Era } from './eras.ts';
import { isObject, type Params } from './jsonrpc.ts';
import { tasksExtension } from './modern.ts';

/*
 * Tasks as messages carry them: those of 2025-11-25 (basic, utilities, tasks), which a client asks for, and those of the modern
 * era's extension (ext-tasks 2026-07-28), where the server decides. They are two things, and not bridged.
 */

/** The key of `_meta` under which legacy messages name the task that they belong to. */
export const relatedTask = 'io.modelcontextprotocol/related-task';

/** What a modern client must declare to be given tasks. */
export const requiredForTasks = { extensions: { [tasksExtension]: {} } } as const;

/** What is read of a task; all else passes through. */
export interface TaskState extends Params {
  taskId: string;
}

/** The task that a legacy message says it belongs to. */
export function relatedTaskOf(params: Params | undefined): string | undefined {
  const meta = params?._meta;
  const related = isObject(meta) ? meta[relatedTask] : undefined;
  return isObject(related) && typeof related.taskId === 'string' ? related.taskId : undefined;
}

/** Params or a result with the task that it belongs to under another id; the same object where it names none, or that one. */
export function relatedTo(message: Params, taskId: string): Params {
  const named = relatedTaskOf(message);
  if (named === undefined || named === taskId) return message;
  const meta = message._meta as Params;
  const related = meta[relatedTask] as Params;
  return { ...message, _meta: { ...meta, [relatedTask]: { ...related, taskId } } };
}

/** The task that was made in answer to a request; `wasAskedFor` by a legacy client, as only then it is one. */
export function createdTask(
  { era, result }: { era?: Era; result: Params },
  wasAskedFor: boolean,
): TaskState | undefined {
  const task = era === 'modern' ? result.resultType === 'task' && result : wasAskedFor && result.task;
  return isTask(task) ? task : undefined;
}

/** Whether something says the state of a task. */
export function isTask(value: unknown): value is TaskState {
  return isObject(value) && typeof value.taskId === 'string';
}

/** Whether the state is one that no other follows. */
export function isOver({ status }: TaskState): boolean {
  return status === 'completed' || status === 'failed' || status === 'cancelled';
}

/** How long its server keeps it, from its creation on; Infinity: without a limit. */
export function ttlMsOf({ ttl, ttlMs }: TaskState): number {
  return durationOf(ttl ?? ttlMs) ?? Number.POSITIVE_INFINITY;
}

/** How often its server wants to be asked at most. */
export function pollIntervalMsOf({ pollInterval, pollIntervalMs }: TaskState): number | undefined {
  return durationOf(pollInterval ?? pollIntervalMs);
}

/** What tells one state of a task from the next, whatever order its fields come in. */
export function stateKeyOf({ status, statusMessage, lastUpdatedAt, inputRequests }: TaskState): string {
  const open = isObject(inputRequests) ? Object.keys(inputRequests).sort() : [];
  return JSON.stringify([status, statusMessage, lastUpdatedAt, open]);
}

/** Whether a modern client, or server, declares the extension. */
export function declaresTasks({ extensions }: Params): boolean {
  return isObject(extensions) && isObject(extensions[tasksExtension]);
}

const durationOf = (value: unknown) => (typeof value === 'number' && value >= 0 ? value : undefined);
