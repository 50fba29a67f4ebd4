import type { Success } from '../../src/protocol/jsonrpc.ts';
import type { Instance, StartOptions } from '../../src/runtimes/runtime.ts';
import type { Bug } from './seam.ts';

/*
 * Three bugs that the model must find, put between the fleet and its instances.
 */

/** Two calls that are answered at about the same time get each other's answer. */
export const crossedReply: Bug = {
  start(startOne, options) {
    let held: Success | undefined;
    const giveUp = () => {
      if (held) options.onMessage(held);
      held = undefined;
    };
    const onMessage: StartOptions['onMessage'] = (message) => {
      const isAnswer = !('method' in message) && 'result' in message && 'content' in message.result;
      if (!isAnswer) options.onMessage(message);
      else if (!held) {
        held = message;
        setTimeout(giveUp, 100);
      } else {
        const { id } = held;
        options.onMessage({ ...held, id: message.id });
        options.onMessage({ ...message, id });
        held = undefined;
      }
    };
    return startOne({ ...options, onMessage });
  },
};

/** Whoever asks for one instance has two started. */
export const doubleStart: Bug = {
  async start(startOne, options) {
    const [instance] = await Promise.all([
      startOne(options),
      startOne({ ...options, onMessage() {}, onNoise() {} }),
    ]);
    return instance;
  },
};

/** An idle time that knows nothing of calls. */
export const stopUnderALease: Bug = {
  onCall(instance: Instance) {
    setTimeout(() => void instance.stop({ graceMs: 100 }), 30);
  },
};
