import { expect } from 'vitest';
import type { ClientKind } from './clients.ts';
import { type Feature, type Ground, textOf, toldAs } from './features.ts';

/** A feature that some cells cannot have, by the specification; tasks alone by a choice of ours. */
export interface Mark {
  feature: string;
  applies(client: ClientKind, ground: Pick<Ground, 'server' | 'isolation'>): boolean;
  /** For the reader of the table. */
  reason: string;
  /** What is seen in its place; fails once the feature works. */
  instead: Feature;
}

const isModern = (client: ClientKind) => client === 'v2 modern';

/** Every cell that is no plain yes. */
export const marks: Mark[] = [
  {
    feature: 'logging, no level set',
    applies: isModern,
    reason:
      'A 2026-07-28 client names a level in each request; the specification forbids log lines for one that does not.',
    instead: async (client, { word }) => {
      await client.call('log', { level: 'emergency', text: `${word}, unasked` });
      await client.call('log', { level: 'emergency', text: word }, { logLevel: 'emergency' });
      expect(toldAs(client, 'message').map(({ params }) => params.data)).toEqual([word]);
    },
  },
  {
    feature: 'told that the URL was opened',
    applies: (client, { server }) => isModern(client) || server === 'modern',
    reason:
      'Completion is announced only where client and server both speak 2025-11-25; 2026-07-28 has no such notification: the call made again has the answer.',
    instead: async (client, { word }) => {
      const url = `https://example.com/${word}`;
      expect(textOf(await client.call('url_required', { url }))).toBe(`opened ${url}`);
      // A second one, so that what the first might have caused has come by now.
      expect(textOf(await client.call('url_required', { url: `${url}/more` }))).toBe(`opened ${url}/more`);
      expect(client.asked).toHaveLength(2);
      expect(toldAs(client, 'elicitation/complete')).toEqual([]);
    },
  },
  {
    feature: 'roots',
    applies: (_client, { server, isolation }) => server === 'legacy' && isolation === 'shared',
    reason:
      'A server of 2025-11-25 or older may ask for roots at any time and not say for which call; an instance that clients share is never told of roots, or one client’s folders would be opened to another. Set `isolation: session`.',
    instead: async (client) => {
      const declared = await client.call('client');
      expect(declared.structuredContent.capabilities).not.toHaveProperty('roots');
      expect(declared.structuredContent.capabilities).toHaveProperty('sampling');
      const forced = JSON.parse(textOf(await client.call('list_roots', { force: true })));
      expect(forced.error).toMatchObject({ code: -32601 });
      expect(client.asked).toEqual([]);
    },
  },
  {
    feature: 'tasks',
    applies: (client, { server }) => isModern(client) !== (server === 'modern'),
    reason:
      'The tasks of 2025-11-25 and the tasks extension of 2026-07-28 are two things, and the gateway does not make one of the other: tools run as ordinary calls, and one that can only be a task is refused.',
    instead: async (client, { word }) => {
      const call = { name: 'slow_compute', arguments: { seconds: 0.1, label: word } };
      const { result } = await client.raw('tools/call', call);
      expect(result.content).toEqual([{ type: 'text', text: `${word}: done in 0.1 s` }]);
      const asked = await client.raw('tools/call', { ...call, task: {} });
      if (client.era === 'legacy') expect(asked.error).toMatchObject({ code: -32601 });
      else expect(asked.result).toMatchObject({ resultType: 'complete', content: result.content });
      expect((await client.raw('tools/call', { name: 'failing_job', arguments: {} })).error).toBeDefined();
    },
  },
];

/** The mark of a cell, if it has one. */
export function markOf(client: ClientKind, ground: Pick<Ground, 'server' | 'isolation'>, feature: string) {
  return marks.find((mark) => mark.feature === feature && mark.applies(client, ground));
}
