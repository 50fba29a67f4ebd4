// Preloaded into a gateway: writes the packages that it loads, on SIGUSR2 the size of its young generation in MB, and at its end whether
// Node had to load what strips types.
import { registerHooks } from 'node:module';
import { getHeapSpaceStatistics } from 'node:v8';

const loaded = new Set();
registerHooks({
  load(url, context, nextLoad) {
    const [, name] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url) ?? [];
    if (name !== undefined && !loaded.has(name)) process.stderr.write(`loads ${name}\n`);
    loaded.add(name);
    return nextLoad(url, context);
  },
});
process.on('SIGUSR2', () => {
  const young = getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space');
  process.stderr.write(`young ${young.physical_space_size / 2 ** 20}\n`);
});
process.on('exit', () => {
  const isStripping = process.moduleLoadList.some((name) => name.includes('/amaro/'));
  process.stderr.write(`strips types: ${isStripping}\n`);
});
