// The few Engine API calls that scripts need on machines without a docker CLI. Plain JavaScript without
// dependencies, for whatever Node a machine has (20 and later).
//   node engine-api.mjs ping
//   node engine-api.mjs version                               its product and version, on one line
//   node engine-api.mjs exists <image>                        exit 1 when it is missing
//   node engine-api.mjs pull <image>                          exit 1 when it cannot be pulled
//   node engine-api.mjs import <image> <KEY=change>... < tar  a root file system becomes an image
//   node engine-api.mjs save <image> > tar                    exit 1 when it is missing
//   node engine-api.mjs load < tar                            images that another engine saved
//   node engine-api.mjs build <image> [KEY=build-arg]... < tar
//   node engine-api.mjs remove-containers <label>             prints the name of each container that was removed
//   node engine-api.mjs logs                                  follows the gateway's container and the servers' stderr
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { finished, pipeline } from 'node:stream/promises';

const FIRST_LAYER_TIMEOUT_MS = 20_000;
const SILENT_PULL_TIMEOUT_MS = 60_000;
const PING_TIMEOUT_MS = 5_000;
const SERVER_LABEL = 'mcp-gateway.server';
const GATEWAY_CONTAINER = 'mcp-gateway';

const fail = (message) => {
  process.stderr.write(`${message}\n`);
  process.exit(1);
};

/** Connection options for DOCKER_HOST (default: the rootful socket). */
function endpoint() {
  const host = process.env.DOCKER_HOST || 'unix:///var/run/docker.sock';
  if (host.startsWith('unix://'))
    return { module: http, options: { socketPath: host.slice('unix://'.length) } };
  const url = new URL(host.replace(/^tcp:/, 'http:'));
  const certificates = process.env.DOCKER_CERT_PATH;
  const tls = url.protocol === 'https:' || Boolean(process.env.DOCKER_TLS_VERIFY);
  const options = { host: url.hostname, port: url.port || (tls ? 2376 : 2375) };
  if (tls && certificates) {
    for (const [key, file] of [
      ['ca', 'ca.pem'],
      ['cert', 'cert.pem'],
      ['key', 'key.pem'],
    ]) {
      options[key] = readFileSync(path.join(certificates, file));
    }
  }
  return { module: tls ? https : http, options };
}

/** One request; resolves with the response once its head is there. `body` is a stream or undefined. */
function call(method, target, { body, headers = {}, timeoutMs } = {}) {
  const { module, options } = endpoint();
  return new Promise((resolve, reject) => {
    const request = module.request(
      { ...options, method, path: target, headers: { Host: 'docker', ...headers } },
      resolve,
    );
    request.on('error', reject);
    if (timeoutMs)
      request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer in ${timeoutMs / 1000} s`)));
    if (body) {
      body.pipe(request);
    } else {
      request.end();
    }
  });
}

async function text(response) {
  let all = '';
  response.setEncoding('utf8');
  for await (const chunk of response) all += chunk;
  return all;
}

/** Reads the engine's progress messages; throws the error that one of them carries. */
async function follow(response, onMessage) {
  if (response.statusCode !== 200) throw new Error((await text(response)).trim());
  let rest = '';
  response.setEncoding('utf8');
  for await (const chunk of response) {
    rest += chunk;
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line.trim() === '') continue;
      const message = JSON.parse(line);
      if (message.error) throw new Error(message.error);
      onMessage(message);
    }
  }
}

/** `repo:tag` as the two parameters that the API wants. */
function reference(image) {
  const colon = image.lastIndexOf(':');
  return colon > image.lastIndexOf('/') ? [image.slice(0, colon), image.slice(colon + 1)] : [image, 'latest'];
}

/** The text of a container's log stream; without a terminal each frame has a head of 8 bytes that ends in its length. */
async function* logText(response, hasTerminal) {
  let rest = Buffer.alloc(0);
  for await (const chunk of response) {
    if (hasTerminal) {
      yield chunk.toString();
      continue;
    }
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= 8 && rest.length >= 8 + rest.readUInt32BE(4)) {
      const end = 8 + rest.readUInt32BE(4);
      yield rest.toString('utf8', 8, end);
      rest = rest.subarray(end);
    }
  }
}

/** Prints a container's log lines, each behind its name, until the container ends. A server's stdout is its protocol: left out. */
async function followContainer(id, tail) {
  const inspected = await call('GET', `/containers/${id}/json`);
  const container = JSON.parse(await text(inspected));
  if (inspected.statusCode !== 200) return;
  const name = container.Name.replace(/^\//, '');
  const isServer = container.Config.Labels?.[SERVER_LABEL] !== undefined;
  const query = new URLSearchParams({
    follow: '1',
    timestamps: '1',
    stderr: '1',
    stdout: isServer ? '0' : '1',
    tail,
  });
  const response = await call('GET', `/containers/${id}/logs?${query}`);
  if (response.statusCode !== 200) return;
  let rest = '';
  for await (const piece of logText(response, container.Config.Tty)) {
    const lines = (rest + piece).split('\n');
    rest = lines.pop();
    for (const line of lines) process.stdout.write(`${name} | ${line}\n`);
  }
}

const commands = {
  async ping() {
    const response = await call('GET', '/_ping', { timeoutMs: PING_TIMEOUT_MS });
    response.resume();
    await finished(response);
    if (response.statusCode !== 200) fail(`_ping: ${response.statusCode}`);
  },

  async version() {
    const { Version, Components = [] } = JSON.parse(await text(await call('GET', '/version')));
    const podman = Components.find(({ Name }) => /podman/i.test(Name));
    process.stdout.write(`${podman ? `Podman ${podman.Version}` : `Docker ${Version}`}\n`);
  },

  async exists(image) {
    const response = await call('GET', `/images/${encodeURIComponent(image)}/json`, {
      timeoutMs: PING_TIMEOUT_MS,
    });
    response.resume();
    await finished(response);
    if (response.statusCode !== 200) process.exit(1);
  },

  async pull(image) {
    const [repo, tag] = reference(image);
    let timer = setTimeout(() => fail(`the registry of ${image} does not answer`), FIRST_LAYER_TIMEOUT_MS);
    const rearm = () => {
      clearTimeout(timer);
      timer = setTimeout(() => fail(`the pull of ${image} is stuck`), SILENT_PULL_TIMEOUT_MS);
    };
    const target = `/images/create?fromImage=${encodeURIComponent(repo)}&tag=${encodeURIComponent(tag)}`;
    await follow(await call('POST', target), rearm);
    clearTimeout(timer);
  },

  async import(image, ...changes) {
    // The tag belongs to the name: Podman overlooks a `tag` of its own.
    const query = new URLSearchParams({ fromSrc: '-', repo: image });
    for (const change of changes) query.append('changes', change);
    const response = await call('POST', `/images/create?${query}`, {
      body: process.stdin,
      headers: { 'Content-Type': 'application/x-tar' },
    });
    await follow(response, () => {});
  },

  async save(image) {
    const response = await call('GET', `/images/get?names=${encodeURIComponent(image)}`);
    if (response.statusCode !== 200) fail((await text(response)).trim());
    await pipeline(response, process.stdout);
  },

  async load() {
    const response = await call('POST', '/images/load?quiet=1', {
      body: process.stdin,
      headers: { 'Content-Type': 'application/x-tar' },
    });
    await follow(response, () => {});
  },

  async build(image, ...buildArguments) {
    const query = new URLSearchParams({ t: image, rm: '1', forcerm: '1', version: '1' });
    query.set(
      'buildargs',
      JSON.stringify(Object.fromEntries(buildArguments.map((entry) => entry.split(/=(.*)/s, 2)))),
    );
    const response = await call('POST', `/build?${query}`, {
      body: process.stdin,
      headers: { 'Content-Type': 'application/x-tar' },
    });
    await follow(response, (message) => process.stderr.write(message.stream ?? ''));
  },

  async 'remove-containers'(label) {
    const filters = encodeURIComponent(JSON.stringify({ label: [label] }));
    const listed = await call('GET', `/containers/json?all=1&filters=${filters}`);
    for (const container of JSON.parse(await text(listed))) {
      const removed = await call('DELETE', `/containers/${container.Id}?force=1`);
      removed.resume();
      await finished(removed);
      process.stdout.write(`${container.Names[0].replace(/^\//, '')}\n`);
    }
  },

  async logs() {
    const followed = new Set();
    const followOurs = async (id, names, labels, tail) => {
      const isOurs =
        SERVER_LABEL in labels || names.some((name) => name.replace(/^\//, '') === GATEWAY_CONTAINER);
      if (!isOurs || followed.has(id)) return;
      followed.add(id);
      await followContainer(id, tail).catch((error) =>
        process.stderr.write(`${names[0]}: ${error.message}\n`),
      );
      followed.delete(id);
    };
    const since = Math.floor(Date.now() / 1000);
    const filters = encodeURIComponent(JSON.stringify({ type: ['container'], event: ['start'] }));
    for (const { Id, Names, Labels } of JSON.parse(await text(await call('GET', '/containers/json')))) {
      void followOurs(Id, Names, Labels ?? {}, '20');
    }
    await follow(await call('GET', `/events?since=${since}&filters=${filters}`), ({ Actor }) => {
      void followOurs(Actor.ID, [Actor.Attributes.name], Actor.Attributes, 'all');
    });
  },
};

const [, , name, ...rest] = process.argv;
if (!Object.hasOwn(commands, name ?? '')) {
  process.stderr.write(`usage: node engine-api.mjs <${Object.keys(commands).join('|')}> …\n`);
  process.exit(2);
}
try {
  await commands[name](...rest);
} catch (error) {
  fail(error.message);
}
