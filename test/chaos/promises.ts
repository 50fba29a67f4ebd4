/**
 * What holds whatever happens, by the name under which a breach of it is reported: the nine promises of an instance's life, and what
 * a client counts on beside them.
 */
export const promises = {
  singleFlight: 'no more instances are started than are needed and allowed, however many ask at once',
  neverStopUnderALease: 'an instance with an open call is not stopped',
  noSilentRetry: 'what was written to a server is not written again',
  crashIsAnAnswer:
    'a call on an instance that dies is told so, with the server’s name; the next call starts a new one',
  noOrphans: 'nothing is left of a gateway that has ended, once the next one has swept',
  listsWakeNothing: 'lists and status start no instance of a server that is known, and never lack it',
  harmsNobody:
    'a server’s calls fail for what was done to that server or to the gateway, and for nothing else',
  bounded: 'every wait ends, and nothing grows beyond its limit',
  truthfulStatus: 'what /servers says is what the system says',
  eachItsOwn: 'nobody gets another’s answer, question, progress or log line',
  answeredOnce: 'every request is answered once, by its own answer or by an error that says why',
  stateNotLostSilently: 'what a server keeps for a client is there, or its loss is told',
} as const;

export type PromiseName = keyof typeof promises;

/** A promise that was not kept. */
export interface Breach {
  promise: PromiseName;
  /** Since the schedule began. */
  atMs: number;
  what: string;
}
