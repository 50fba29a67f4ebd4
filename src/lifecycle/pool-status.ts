import type { ServerConfig } from '../config/schema.ts';
import type { ServerState } from '../observability/events.ts';
import type { LastError } from './failures.ts';
import type { Member, MemberState } from './member.ts';

/** One instance as `/servers` shows it. */
export interface InstanceStatus {
  id: string;
  state: 'starting' | 'ready' | 'paused' | 'draining';
  leases: number;
  startedAtMs: number;
  /** As last measured. */
  memoryBytes: number | undefined;
  /** Of one CPU, as last measured. */
  cpuPercent: number | undefined;
  /** A spare, for whoever finds no instance that is ready. */
  isStandby: boolean;
}

/** A server as `/servers` shows it, as far as the fleet knows. */
export interface PoolStatus {
  name: string;
  type: ServerConfig['type'];
  state: ServerState;
  instances: InstanceStatus[];
  /** Calls that wait for an instance. */
  waiting: number;
  lastError: LastError | undefined;
  /** While it is in back-off. */
  retryAtMs: number | undefined;
}

const shownAs: Partial<Record<MemberState, InstanceStatus['state']>> = {
  starting: 'starting',
  ready: 'ready',
  pausing: 'ready',
  paused: 'paused',
  resuming: 'paused',
  draining: 'draining',
};

/** undefined: it is gone. */
export function instanceStatus(member: Member): InstanceStatus | undefined {
  const state = shownAs[shownState(member)];
  if (!state) return undefined;
  const { name: id, leases, startedAtMs, memoryBytes, cpuPercent, isSpare: isStandby } = member;
  return { id, state, leases, startedAtMs, memoryBytes, cpuPercent, isStandby };
}

/** The state of an instance as its engine has it: somebody else may have frozen or thawed it. */
export function shownState({ state, isFrozen }: Member): MemberState {
  if (state === 'ready' && isFrozen === true) return 'paused';
  return state === 'paused' && isFrozen === false ? 'ready' : state;
}

/** The state of a server whose instances are in these states. */
export function mostAvailable(states: ReadonlySet<MemberState>, hasFailed: boolean): ServerState {
  if (states.has('ready') || states.has('pausing')) return 'ready';
  if (states.has('paused') || states.has('resuming')) return 'paused';
  if (states.has('starting')) return 'starting';
  if (hasFailed) return 'failed';
  return states.has('draining') ? 'draining' : 'stopped';
}
