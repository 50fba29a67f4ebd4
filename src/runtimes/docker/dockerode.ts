import { createRequire, Module } from 'node:module';
import type Dockerode from 'dockerode';

/*
 * dockerode brings gRPC for BuildKit sessions and an SSH client, 18 MiB that a gateway on a local socket never uses:
 * both are put behind a function that loads them when they are first called.
 */

const requireHere = createRequire(import.meta.url);
let loaded: typeof Dockerode | undefined;

/** dockerode's class, loaded when first asked for. */
export function loadDockerode(): typeof Dockerode {
  if (loaded) return loaded;
  const requireInDockerode = createRequire(requireHere.resolve('dockerode'));
  deferModule(requireInDockerode, './session');
  deferModule(createRequire(requireInDockerode.resolve('docker-modem')), './ssh');
  loaded = requireHere('dockerode') as typeof Dockerode;
  return loaded;
}

/** Makes a CommonJS module that exports one function load at that function's first call. */
function deferModule(require: NodeJS.Require, name: string): void {
  let file: string;
  try {
    file = require.resolve(name);
  } catch {
    // Another version without that file: it loads as it is made.
    return;
  }
  if (require.cache[file]) return;
  const stand = new Module(file);
  stand.exports = (...args: unknown[]) => {
    delete require.cache[file];
    return require(file)(...args);
  };
  stand.loaded = true;
  require.cache[file] = stand as NodeJS.Module;
}
