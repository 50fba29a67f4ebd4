import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GatewayError } from '../base/errors.ts';
import { exampleConfig } from './example.ts';
import { ConfigError, type LoadOptions, loadConfig } from './load.ts';
import type { Config, ContainerServer, DockerServer, ProcessServer } from './schema.ts';

let root: string;
let count = 0;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'config-'));
});

afterAll(() => rm(root, { recursive: true, force: true }));

/** A folder of its own with these files in it. */
async function folderWith(files: Record<string, string | Uint8Array>): Promise<string> {
  const folder = path.join(root, String(count++));
  await mkdir(folder, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
    await writeFile(path.join(folder, name), content);
  }
  return folder;
}

async function load(
  yaml: string | Uint8Array,
  { files = {}, ...options }: Partial<LoadOptions> & { files?: Record<string, string> } = {},
): Promise<Config & { folder: string }> {
  const folder = await folderWith({ 'servers.yaml': yaml, ...files });
  const config = await loadConfig({
    mode: 'validate',
    cwd: folder,
    homeDir: path.join(folder, 'home'),
    env: {},
    ...options,
  });
  return { ...config, folder };
}

/** The lines that a user reads. */
async function complaints(
  yaml: string | Uint8Array,
  options: Parameters<typeof load>[1] = {},
): Promise<string[]> {
  try {
    await load(yaml, options);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    expect(error).toBeInstanceOf(GatewayError);
    expect(error.code).toBe('config_invalid');
    expect(error.problems).toHaveLength(error.message.split('\n').length);
    return error.message.split('\n');
  }
  return [];
}

const docker = (config: Config, name: string) => config.servers.get(name) as DockerServer;

describe('a file that is wrong', () => {
  const table: [title: string, yaml: string, ...expected: string[]][] = [
    [
      'empty',
      '',
      'servers.yaml:1:1: found an empty file, expected a map with the key servers; mcp-gateway example prints one to begin with',
    ],
    [
      'only comments',
      '# nothing\n',
      'servers.yaml:1:1: found an empty file, expected a map with the key servers; mcp-gateway example prints one to begin with',
    ],
    [
      'a list',
      '- a\n',
      'servers.yaml:1:1: found a list, expected a map with the key servers; mcp-gateway example prints one to begin with',
    ],
    [
      'no servers',
      'gateway: {}\n',
      'servers.yaml:1:1: the key servers is missing; servers: {} is a gateway without servers',
    ],
    [
      'a misspelt section',
      'server: {}\n',
      'servers.yaml:1:1: found the unknown key "server", expected gateway, defaults or servers; did you mean "servers"?',
    ],
    [
      'another tool’s section',
      'mcpServers: {}\n',
      'servers.yaml:1:1: found the unknown key "mcpServers", expected gateway, defaults or servers; did you mean "servers"?',
    ],
    [
      'a section of another kind',
      'servers: [a]\n',
      'servers.yaml:1:10: servers: found a list, expected a map',
    ],
    [
      'a tab',
      'servers:\n\ta: 1\n',
      'servers.yaml:2:1: found a tab, expected spaces as indentation; replace the tab with spaces',
    ],
    [
      'two documents',
      'servers: {}\n---\nservers: {}\n',
      'servers.yaml:2:1: found a second document, expected one; remove the line with ---',
    ],
    [
      'a tag',
      'servers: !include x\n',
      'servers.yaml:1:10: found a tag (a word after !), expected a plain value; tags have no meaning here',
    ],
    [
      'an anchor that is missing',
      'servers:\n  a: *none\n',
      'servers.yaml:2:6: there is no anchor &none above',
    ],
    [
      'an anchor inside itself',
      'servers: &all\n  a: { image: x, env: *all }\n',
      'servers.yaml:2:23: *all stands inside &all itself',
    ],
    [
      'a merge of something else',
      'servers:\n  a: { <<: 5, image: x }\n',
      'servers.yaml:2:8: << takes a map or a list of maps; write <<: *name, where &name marks a map above',
    ],
    [
      'several syntax errors',
      'servers:\n  a: { env: { X: ${FOO} } }\n  b: @x\n  c:\n    image: "open\n',
      'servers.yaml:2:18: a variable inside { } or [ ] needs quotes; write "${NAME}", with the quotes',
      'servers.yaml:3:6: plain value cannot start with reserved character @; put the value in quotes',
      'servers.yaml:5:12: the quote that opens here is not closed',
    ],
    [
      'two servers with one name',
      'servers:\n  a: { image: x }\n  b: { image: x }\n  a: { image: y }\n',
      'servers.yaml:4:3: two servers are named a: the first is at servers.yaml:2:3; rename one',
    ],
    [
      'a key that is there twice',
      'servers:\n  a:\n    image: x\n    image: y\n',
      'servers.yaml:4:5: the key "image" is there twice: the first is at servers.yaml:3:5; remove one',
    ],
    [
      'a reserved name',
      'servers:\n  health: { image: x }\n',
      'servers.yaml:2:3: servers: the name health is reserved for a route of the gateway; rename it, for example health-server',
    ],
    [
      'a bad name',
      'servers:\n  My Server: { image: x }\n',
      'servers.yaml:2:3: servers: found the name "My Server", expected a to z, 0 to 9 and -, not first; did you mean "my-server"?',
    ],
    [
      'an empty server',
      'servers:\n  a:\n',
      'servers.yaml:2:3: servers.a: found nothing, expected a map with image, build or type',
    ],
    [
      'nothing to run',
      'servers:\n  a: { description: x }\n',
      'servers.yaml:2:3: servers.a: image, build and type are missing; one of them says what to run',
    ],
    [
      'a misspelt image',
      'servers:\n  a:\n    imagee: x\n',
      'servers.yaml:2:3: servers.a: image, build and type are missing; one of them says what to run',
      'servers.yaml:3:5: servers.a: found the unknown key "imagee", expected a key of a server; did you mean "image"?',
    ],
    [
      'docker without an image',
      'servers:\n  a: { type: docker }\n',
      'servers.yaml:2:3: servers.a: neither image nor build is there, and a docker server needs one of them; for a program of this machine write type: process',
    ],
    [
      'a command alone',
      'servers:\n  a: { command: [x] }\n',
      'servers.yaml:2:3: servers.a: type is missing, and command alone does not tell it; write type: process, or add the image to run it in',
    ],
    [
      'a template without its type',
      'servers:\n  a: { template: npm, config: { package: x } }\n',
      'servers.yaml:2:3: servers.a: type is missing, and template belongs to one; write type: template',
    ],
    [
      'another tool’s type',
      'servers:\n  a: { type: stdio, command: [x] }\n',
      'servers.yaml:2:14: servers.a.type: found "stdio", expected docker, process, template or http; did you mean "process"?',
    ],
    [
      'a process without a command',
      'servers:\n  a: { type: process }\n',
      'servers.yaml:2:3: servers.a.command: is missing, expected a list',
    ],
    [
      'an unknown key',
      'servers:\n  a: { image: x, comand: [y] }\n',
      'servers.yaml:2:18: servers.a: found the unknown key "comand", expected a key of a server; did you mean "command"?',
    ],
    [
      'an unknown key in a map',
      'servers:\n  a: { image: x, limits: { cpu: 1 } }\n',
      'servers.yaml:2:28: servers.a.limits: found the unknown key "cpu", expected a key of limits; did you mean "cpus"?',
    ],
    [
      'an unknown key unlike any other',
      'servers:\n  a: { image: x, limits: { zzzzzz: 1 } }\n',
      'servers.yaml:2:28: servers.a.limits: found the unknown key "zzzzzz", expected a key of limits; known keys: memory, cpus, pids',
    ],
    [
      'a key of another type',
      'servers:\n  a: { type: process, command: [x], limits: {} }\n',
      'servers.yaml:2:37: servers.a: found the key "limits": only servers of type docker and template have it, and this one is of type process; remove it',
    ],
    [
      'another tool’s key',
      'servers:\n  a: { image: x, environment: {} }\n',
      'servers.yaml:2:18: servers.a: found the unknown key "environment", expected a key of a server; did you mean "env"?',
    ],
    [
      'privileged',
      'servers:\n  a: { image: x, privileged: true }\n',
      'servers.yaml:2:18: servers.a: the key "privileged" is refused: it would open the host to the server; remove it',
    ],
    [
      'a misspelt gateway key',
      'gateway: { log-level: info }\nservers: {}\n',
      'servers.yaml:1:12: gateway: found the unknown key "log-level", expected a key of gateway; did you mean "log_level"?',
    ],
    [
      'a wrong level',
      'gateway: { log_level: INFOS }\nservers: {}\n',
      'servers.yaml:1:23: gateway.log_level: found "INFOS", expected error, warn, info or debug; did you mean "info"?',
    ],
    [
      'an image that none can be named',
      'servers:\n  a: { image: "Not An Image!" }\n',
      'servers.yaml:2:15: servers.a.image: found "Not An Image!", expected an image such as node:26 or ghcr.io/owner/name:1.2',
    ],
    [
      'a wrong number',
      'gateway: { port: 70000 }\nservers: {}\n',
      'servers.yaml:1:18: gateway.port: found 70000, expected 65535 or less',
    ],
    [
      'a fraction',
      'servers:\n  a: { image: x, concurrency: 1.5 }\n',
      'servers.yaml:2:31: servers.a.concurrency: found 1.5, expected a whole number',
    ],
    [
      'a number too small',
      'servers:\n  a: { image: x, concurrency: 0 }\n',
      'servers.yaml:2:31: servers.a.concurrency: found 0, expected 1 or more',
    ],
    [
      'a wrong duration',
      'servers:\n  a: { image: x, idle_timeout: soon }\n',
      'servers.yaml:2:32: servers.a.idle_timeout: found "soon", expected a duration such as 300, 300s or 5m, or never',
    ],
    [
      'a limit of nothing',
      'gateway: { max_message: 0 }\nservers:\n  a: { image: x, timeouts: { call: 0s } }\n',
      'servers.yaml:1:25: gateway.max_message: found 0, expected a size above 0, such as 512m or 1g',
      'servers.yaml:3:36: servers.a.timeouts.call: found "0s", expected a duration above 0, such as 300, 300s or 5m',
    ],
    [
      'a list as a duration',
      'servers:\n  a: { image: x, timeouts: { call: [1] } }\n',
      'servers.yaml:2:36: servers.a.timeouts.call: found a list, expected a duration above 0, such as 300, 300s or 5m',
    ],
    [
      'a wrong size',
      'servers:\n  a: { image: x, limits: { memory: lots } }\n',
      'servers.yaml:2:36: servers.a.limits.memory: found "lots", expected a size above 0, such as 512m or 1g',
    ],
    [
      'a number as a string',
      'servers:\n  a: { image: 1.10 }\n',
      'servers.yaml:2:15: servers.a.image: found 1.10, expected a string; put it in quotes: "1.10"',
    ],
    [
      'a string as a list',
      'servers:\n  a: { type: process, command: npx -y @scope/it }\n',
      'servers.yaml:2:32: servers.a.command: found "npx -y @scope/it", expected a list; write it as a list: [npx, -y, "@scope/it"]',
    ],
    [
      'an empty command',
      'servers:\n  a: { type: process, command: [] }\n',
      'servers.yaml:2:32: servers.a.command: found a list, expected at least one entry',
    ],
    [
      'a yes for a boolean',
      'servers:\n  a: { image: x, init: yes }\n',
      'servers.yaml:2:24: servers.a.init: found "yes", expected true or false',
    ],
    [
      'a wrong choice',
      'servers:\n  a: { image: x, load_balancing: least_connection }\n',
      'servers.yaml:2:34: servers.a.load_balancing: found "least_connection", expected least_connections, round_robin or random; did you mean "least_connections"?',
    ],
    [
      'a reserved choice',
      'servers:\n  a: { image: x, isolation: principal }\n',
      'servers.yaml:2:29: servers.a.isolation: found "principal", expected shared or session; principal is reserved for a later version',
    ],
    [
      'a wrong kind of tools',
      'servers:\n  a: { image: x, tools: 5 }\n',
      'servers.yaml:2:25: servers.a.tools: found 5, expected a list or a map',
    ],
    [
      'a wrong key of tools',
      'servers:\n  a: { image: x, tools: { allowed: [x] } }\n',
      'servers.yaml:2:27: servers.a.tools: found the unknown key "allowed", expected a key of tools; did you mean "allow"?',
    ],
    [
      'a wrong tool',
      'servers:\n  a: { image: x, tools: [x, 5] }\n',
      'servers.yaml:2:29: servers.a.tools[1]: found 5, expected a string; put it in quotes: "5"',
    ],
    [
      'env as a list',
      'servers:\n  a: { image: x, env: [A=b] }\n',
      'servers.yaml:2:23: servers.a.env: found a list, expected a map of names and values; write NAME: value',
    ],
    [
      'an env without a value',
      'servers:\n  a:\n    image: x\n    env:\n      A:\n',
      'servers.yaml:5:7: servers.a.env.A: found nothing, expected a string, a number or a boolean; write "" for an empty value, or "${A}" to pass on the gateway\'s own',
    ],
    [
      'an env name with =',
      'servers:\n  a: { image: x, env: { "A=b": c } }\n',
      'servers.yaml:2:25: servers.a.env: found this name, expected a name without =',
    ],
    [
      'more instances at least than at most',
      'servers:\n  a: { image: x, pool: { min: 3, max: 2 } }\n',
      'servers.yaml:2:31: servers.a.pool.min: found 3, expected at most pool.max',
    ],
    [
      'an endpoint that is no URL',
      'servers:\n  a: { type: http, endpoints: ["ftp://key@host/"] }\n',
      'servers.yaml:2:32: servers.a.endpoints[0]: found a string, expected a URL that starts with http:// or https://',
    ],
    [
      'the engine’s socket',
      'servers:\n  a: { image: x, volumes: ["/var/run/docker.sock:/s"] }\n',
      'servers.yaml:2:28: servers.a.volumes[0]: refused: the engine’s socket /var/run/docker.sock as a volume; remove it, or set gateway.allow_unsafe: true if the server may be root on this machine',
    ],
    [
      'a folder that holds the socket',
      'servers:\n  a: { image: x, volumes: ["/:/host:ro"] }\n',
      'servers.yaml:2:28: servers.a.volumes[0]: refused: the engine’s socket /var/run/docker.sock as a volume; remove it, or set gateway.allow_unsafe: true if the server may be root on this machine',
    ],
    [
      'the network of the host',
      'servers:\n  a: { image: x, network: host }\n',
      'servers.yaml:2:27: servers.a.network: refused: the network of the host; remove it, or set gateway.allow_unsafe: true if the server may be root on this machine',
    ],
    [
      'another container’s network',
      'servers:\n  a: { image: x, network: "container:b" }\n',
      'servers.yaml:2:27: servers.a.network: found "container:b", expected none or the name of a network',
    ],
    [
      'a volume without a target',
      'servers:\n  a: { image: x, volumes: [data] }\n',
      'servers.yaml:2:28: servers.a.volumes[0]: found "data", expected ./folder:/path, name:/path, or one of them with :ro at its end',
    ],
    [
      'a folder written as a name',
      'servers:\n  a: { image: x, volumes: ["data/x:/data"] }\n',
      'servers.yaml:2:28: servers.a.volumes[0]: found "data/x:/data", expected the name of a volume (two or more of letters, digits, _, . and -) or a folder; did you mean "./data/x:/data"?',
    ],
    [
      'a volume on the root',
      'servers:\n  a: { image: x, volumes: ["data:/"] }\n',
      'servers.yaml:2:28: servers.a.volumes[0]: found "data:/", expected an absolute path of the container after the first colon; for example data:/data',
    ],
    [
      'a wrong mode',
      'servers:\n  a: { image: x, volumes: ["data:/data:z"] }\n',
      'servers.yaml:2:28: servers.a.volumes[0]: found "data:/data:z", expected ro or rw after the second colon',
    ],
    [
      'two volumes on one path',
      'servers:\n  a: { image: x, volumes: ["aa:/d", "bb:/d/"] }\n',
      'servers.yaml:2:37: servers.a.volumes[1]: found "bb:/d/", expected a path that volumes[0] does not have already',
    ],
    [
      'a fallback with volumes',
      'servers:\n  a: { image: x, fallback: process, volumes: ["aa:/d"] }\n',
      'servers.yaml:2:18: servers.a.fallback: found fallback together with volumes: a plain process would not see them; remove one of the two',
    ],
    [
      'roots on a shared server',
      'servers:\n  a: { image: x, client_capabilities: [roots] }\n',
      'servers.yaml:2:40: servers.a.client_capabilities[0]: found roots on a server whose instances clients share: it could open one client’s folders to another; set isolation: session',
    ],
    [
      'a build from elsewhere',
      'servers:\n  a: { build: "https://host/repo.git" }\n',
      'servers.yaml:2:15: servers.a.build: found "https://host/repo.git", expected a folder of this machine',
    ],
  ];

  it.each(table)('says so: %s', async (_title, yaml, ...expected) => {
    expect(await complaints(yaml)).toEqual(expected);
  });

  it('says everything at once, in the order of the file', async () => {
    const yaml = `gateway:
  port: "x"
defaults:
  concurrency: many
servers:
  A: { imge: x, image: 5 }
  b: { image: x, pool: { min: 2, max: oops }, volumes: [5, "./x:y"], env: { A: [] } }
  mcp: { type: prozess, command: [1, 2, a] }
  c: { type: template, template: npm, config: { pakage: x } }
`;
    expect(await complaints(yaml)).toEqual([
      'servers.yaml:2:9: gateway.port: found "x", expected a number',
      'servers.yaml:4:16: defaults.concurrency: found "many", expected a number',
      'servers.yaml:6:3: servers: found the name "A", expected a to z, 0 to 9 and -, not first; did you mean "a"?',
      'servers.yaml:6:8: servers.A: found the unknown key "imge", expected a key of a server; did you mean "image"?',
      'servers.yaml:6:24: servers.A.image: found 5, expected a string; put it in quotes: "5"',
      'servers.yaml:7:39: servers.b.pool.max: found "oops", expected a number',
      'servers.yaml:7:57: servers.b.volumes[0]: found 5, expected a string; put it in quotes: "5"',
      'servers.yaml:7:60: servers.b.volumes[0]: found "./x:y", expected an absolute path of the container after the first colon; for example ./x:/data',
      'servers.yaml:7:80: servers.b.env.A: found a list, expected a string, a number or a boolean',
      'servers.yaml:8:3: servers: the name mcp is reserved for a route of the gateway; rename it, for example mcp-server',
      'servers.yaml:8:16: servers.mcp.type: found "prozess", expected docker, process, template or http; did you mean "process"?',
      'servers.yaml:8:35: servers.mcp.command[0]: found 1, expected a string; put it in quotes: "1"',
      'servers.yaml:8:38: servers.mcp.command[1]: found 2, expected a string; put it in quotes: "2"',
      'servers.yaml:9:39: servers.c.config.package: is missing, expected a string',
      'servers.yaml:9:49: servers.c.config: found the unknown key "pakage", expected a key of config; did you mean "package"?',
    ]);
  });

  it('says once what several servers inherit', async () => {
    const yaml = `defaults: { limits: { memory: lots } }
x-base: &base { image: x, init: maybe }
servers:
  a: *base
  b: { <<: *base, stateful: true }
  c: { image: y }
`;
    expect(await complaints(yaml)).toEqual([
      'servers.yaml:1:31: defaults.limits.memory: found "lots", expected a size above 0, such as 512m or 1g',
      'servers.yaml:2:33: servers.a.init: found "maybe", expected true or false',
    ]);
  });

  it('is not text', async () => {
    expect(await complaints(new Uint8Array([0x61, 0xff, 0xfe]))).toEqual([
      'servers.yaml: found bytes that are not UTF-8 text; save the file as UTF-8',
    ]);
  });

  it('multiplies aliases beyond bound', async () => {
    const levels = Array.from(
      { length: 20 },
      (_, i) =>
        `x-${i}: &a${i} [${
          i === 0
            ? '1'
            : Array(10)
                .fill(`*a${i - 1}`)
                .join(', ')
        }]`,
    );
    const lines = await complaints(`${levels.join('\n')}\nservers: {}\n`);
    expect(lines[0]).toMatch(/^servers\.yaml:6:10: found more than 100000 values, aliases counted in full$/);
  });

  it('is nested beyond reason', async () => {
    expect(await complaints(`servers: ${'['.repeat(50_000)}`)).toEqual([
      expect.stringContaining('nested too deeply'),
    ]);
  });
});

describe('variables', () => {
  const yaml = `servers:
  a:
    image: x
    env:
      ONE: \${ONE}
      TWO: "a \\"quoted\\" \${TWO:-two} and \${THREE}"
      FOUR: |
        first line
        second \${FOUR}
      FIVE: \${file:secret.txt}
`;

  it('fail validation, each at its exact place', async () => {
    expect(await complaints(yaml)).toEqual([
      'servers.yaml:5:12: servers.a: the variable ONE is not set; set it in the environment or in .env beside the file, or give it a default: ${ONE:-…}',
      'servers.yaml:6:42: servers.a: the variable THREE is not set; set it in the environment or in .env beside the file, or give it a default: ${THREE:-…}',
      'servers.yaml:9:16: servers.a: the variable FOUR is not set; set it in the environment or in .env beside the file, or give it a default: ${FOUR:-…}',
      'servers.yaml:10:13: servers.a: the file of ${file:secret.txt} cannot be read: there is no such file; relative paths start at the folder of servers.yaml',
    ]);
  });

  it('come from the environment, .env and files, the environment first', async () => {
    const config = await load(yaml, {
      env: { ONE: 'from the environment' },
      files: { '.env': 'ONE=from dotenv\nTHREE="three"\nFOUR=4 # comment\n', 'secret.txt': 'from a file\n' },
    });
    expect(docker(config, 'a').env).toEqual({
      ONE: 'from the environment',
      TWO: 'a "quoted" two and three',
      FOUR: 'first line\nsecond 4\n',
      FIVE: 'from a file',
    });
  });

  it('that are missing stop their server alone at start', async () => {
    const config = await load(
      'servers:\n  a: { image: x, env: { T: "${TOKEN}" } }\n  b: { image: y }\n  c: { type: process, command: ["${C1}", "${C2}"], concurrency: "${N}" }\n',
      { mode: 'start' },
    );
    expect(config.servers.get('a')!.problem).toEqual({
      code: 'variable_missing',
      message: 'servers.yaml:2:29: the variable TOKEN is not set',
      hint: 'set it in the environment or in .env beside the file, or give it a default: ${TOKEN:-…}; then start the gateway again',
    });
    expect(config.servers.get('b')!.problem).toBeUndefined();
    expect(config.servers.get('c')).toMatchObject({
      problem: {
        code: 'variable_missing',
        message:
          'servers.yaml:4:34: the variable C1 is not set; servers.yaml:4:43: the variable C2 is not set; servers.yaml:4:66: the variable N is not set',
      },
      concurrency: 8,
    });
  });

  it.each([
    'gateway: { host: "${NONE}" }\nservers: {}\n',
    'defaults: { env: { A: "${NONE}" } }\nservers: {}\n',
  ])('that are missing for all are an error at start too: %s', async (yaml) => {
    expect(await complaints(yaml, { mode: 'start' })).toEqual([
      expect.stringMatching(/^servers\.yaml:1:\d+: (gateway|defaults): the variable NONE is not set; /),
    ]);
  });

  it('that are malformed are an error at start too', async () => {
    expect(await complaints('servers:\n  a: { image: "x${" }\n', { mode: 'start' })).toEqual([
      'servers.yaml:2:17: servers.a: found ${ without a name after it; write ${NAME}, ${NAME:-default} or ${file:path}; $${ stands for a plain ${',
    ]);
  });

  it('of disabled servers are not read', async () => {
    const config = await load(
      'servers:\n  a: { enabled: false, image: "${X}", concurrency: "${N}", volumes: ["${V}"], network: "${W}" }\n  b: { enabled: "${ON:-false}", image: "${X}" }\n  c: { enabled: false, type: process, command: "${C}" }\n',
    );
    expect(docker(config, 'a')).toMatchObject({
      enabled: false,
      image: '${X}',
      concurrency: 8,
      volumes: [],
      problem: undefined,
    });
    expect(docker(config, 'b').enabled).toBe(false);
    expect(config.servers.get('c')!.enabled).toBe(false);
    expect(config.warnings).toEqual([]);
  });

  it('stand for numbers and booleans where these are expected, and stay text elsewhere', async () => {
    const config = await load(
      'gateway: { port: "${PORT}" }\nservers:\n  a: { image: x, concurrency: "${N}", init: "${B}", idle_timeout: "${I}", user: "${U}", env: { V: "${V}" }, enabled: "${ON}" }\n',
      { env: { PORT: '9000', N: '4', B: 'True', I: '10', U: '1000', V: '0123', ON: 'true' } },
    );
    expect(config.gateway.port).toBe(9000);
    expect(docker(config, 'a')).toMatchObject({
      concurrency: 4,
      init: true,
      idleTimeoutMs: 10_000,
      user: '1000',
      env: { V: '0123' },
      enabled: true,
    });
  });

  it('never show their values in a message', async () => {
    const secret = 'hunter2 secret';
    const lines = await complaints(
      `gateway: { port: "\${S}", log_level: "\${S}" }
servers:
  a:
    image: x
    concurrency: \${S}
    idle_timeout: \${S}
    isolation: \${S}
    network: \${S}
    init: \${S}
    tools: \${S}
    command: \${S}
    volumes: ["\${S}", "\${S}:/a:zz", "a/\${S}:/b", "./a:\${S}"]
    limits: { cpus: "\${S}" }
    build: { context: "https://\${S}" }
  b: { type: http, endpoints: ["\${S}", "\${file:\${S}}"] }
  c: { image: x, prefix: "\${S}" }
  d: { type: "\${S}" }
`,
      { env: { S: secret } },
    );
    expect(lines.length).toBeGreaterThanOrEqual(17);
    expect(lines.join('\n')).not.toContain('hunter2');
    expect(lines).toContain(
      'servers.yaml:5:18: servers.a.concurrency: found the value of ${S}, expected a number',
    );
  });

  it('are none that every object has', async () => {
    expect(await complaints('servers:\n  a: { image: x, env: { A: "${constructor}" } }\n')).toEqual([
      expect.stringContaining('the variable constructor is not set'),
    ]);
  });

  it('cannot bring in files that are no files', async () => {
    expect(await complaints('servers:\n  a: { image: x, env: { A: "${file:.}" } }\n')).toEqual([
      expect.stringContaining('the file of ${file:.} cannot be read: it is no regular file'),
    ]);
  });
});

describe('a literal that may be a secret', () => {
  it.each([
    'servers:\n  a: { type: http, endpoints: "http://user:hunter2@host/" }\n',
    'servers:\n  a: { type: http, endpoints: ["ftp://user:hunter2@host/"] }\n',
    'servers:\n  a: { image: x, env: hunter2 }\n',
    'servers:\n  a: { image: x, env: { A: [hunter2] } }\n',
    'servers:\n  a:\n    image: x\n    env:\n      A: hunter2\n     B: hunter2\n',
    'servers:\n  a: { image: x, env: { A: "hunter2\\q" } }\n',
    'servers:\n  a:\n    env:\n      A: |hunter2\n',
    'servers:\n  a: { env: { A: x } }}\nhunter2\n',
  ])('stays out of messages: %s', async (yaml) => {
    const lines = await complaints(yaml);
    expect(lines.length).toBeGreaterThan(0);
    expect(lines.join('\n')).not.toContain('hunter2');
  });
});

describe('a valid file', () => {
  it('has every default', async () => {
    const { folder, ...config } = await load('servers: { a: { image: x } }\n');
    expect(config).toEqual({
      file: path.join(folder, 'servers.yaml'),
      warnings: [],
      gateway: {
        host: '127.0.0.1',
        port: 8000,
        logLevel: 'info',
        defaultIdleTimeoutMs: 300_000,
        stateDir: path.join(folder, 'state'),
        maxInstances: 50,
        maxMemoryBytes: undefined,
        standbyMemoryBytes: 1024 ** 3,
        reload: true,
        maxNameLength: 46,
        maxBodyBytes: 4 * 1024 ** 2,
        maxMessageBytes: 64 * 1024 ** 2,
        maxQueue: 2000,
        maxSessions: 10_000,
        sessionTimeoutMs: 1_800_000,
        parallelStarts: 4,
        drainTimeoutMs: 30_000,
        allowedHosts: [],
        allowedOrigins: [],
        allowUnsafe: false,
        proxy: undefined,
        caCertificates: undefined,
      },
      servers: new Map([
        [
          'a',
          {
            name: 'a',
            type: 'docker',
            description: undefined,
            enabled: true,
            problem: undefined,
            env: {},
            idleTimeoutMs: 300_000,
            pauseAfterMs: Number.POSITIVE_INFINITY,
            tools: { allow: undefined, deny: [], rename: {}, describe: {} },
            prefix: undefined,
            isolation: 'shared',
            stateful: false,
            interactive: undefined,
            clientCapabilities: ['sampling', 'elicitation'],
            pool: { min: 0, max: 1, standby: 0 },
            concurrency: 8,
            loadBalancing: 'least_connections',
            timeouts: {
              startMs: 30_000,
              buildMs: 600_000,
              handshakeMs: 10_000,
              callMs: 300_000,
              clientMs: 300_000,
              queueMs: 60_000,
              stopMs: 10_000,
            },
            healthCheck: { intervalMs: 30_000, path: undefined },
            retry: 'never',
            image: 'x',
            build: undefined,
            compileCache: false,
            command: undefined,
            entrypoint: undefined,
            workingDir: undefined,
            volumes: [],
            limits: { memoryBytes: 512 * 1024 ** 2, cpus: 1, pids: 128 },
            network: 'mcp-network',
            user: 'auto',
            readOnly: true,
            fallback: undefined,
            pull: 'missing',
            platform: undefined,
            init: false,
            tmpfs: [],
            shmSizeBytes: undefined,
            extraHosts: [],
            dns: [],
            capAdd: [],
            logs: 'on',
            ociRuntime: undefined,
            sandbox: undefined,
          },
        ],
      ]),
    });
  });

  it('takes the defaults of the file, maps deep, the server’s own first, keys of its type only', async () => {
    const config = await load(`
gateway: { default_idle_timeout: never }
defaults:
  env: { TZ: "\${TZ:-UTC}", LEVEL: low }
  limits: { memory: 1g }
  timeouts: { call: 60 }
  volumes: ["shared:/shared"]
  pause_after: 30s
  tools: { deny: [rm] }
servers:
  a: { image: x, env: { LEVEL: high }, limits: { cpus: 2 }, timeouts: { stop: 1s } }
  b: { image: x, volumes: [], pause_after: off, idle_timeout: 5m, tools: [only] }
  c: { type: process, command: [run] }
`);
    expect(docker(config, 'a')).toMatchObject({
      env: { TZ: 'UTC', LEVEL: 'high' },
      limits: { memoryBytes: 1024 ** 3, cpus: 2, pids: 128 },
      timeouts: { callMs: 60_000, stopMs: 1000, startMs: 30_000 },
      volumes: [{ kind: 'volume', source: 'shared', target: '/shared', readOnly: false }],
      pauseAfterMs: 30_000,
      idleTimeoutMs: Number.POSITIVE_INFINITY,
      tools: { allow: undefined, deny: ['rm'] },
    });
    expect(docker(config, 'b')).toMatchObject({
      volumes: [],
      pauseAfterMs: Number.POSITIVE_INFINITY,
      idleTimeoutMs: 300_000,
      tools: { allow: ['only'], deny: [] },
    });
    expect(config.servers.get('c')).toMatchObject({ type: 'process', env: { TZ: 'UTC', LEVEL: 'low' } });
  });

  it('has absolute paths', async () => {
    const config = await load(`
gateway: { state_dir: ~/gw, ca_certificates: ca.pem }
servers:
  a: { build: ./a, volumes: ["./data:/data:ro", "~/x:/x", "~:/home/it:ro", "/abs/../y:/y:rw", "name.1:/n:ro"] }
  b: { build: { context: ../b, args: { A: 1.10 } } }
  c: { type: process, command: [x], working_dir: ./c }
  d: { type: process, command: [x] }
`);
    const { folder } = config;
    expect(config.gateway.stateDir).toBe(path.join(folder, 'home/gw'));
    expect(config.gateway.caCertificates).toBe(path.join(folder, 'ca.pem'));
    expect(docker(config, 'a').build).toEqual({
      context: path.join(folder, 'a'),
      dockerfile: 'Dockerfile',
      args: {},
    });
    expect(docker(config, 'a').volumes).toEqual([
      { kind: 'bind', source: path.join(folder, 'data'), target: '/data', readOnly: true },
      { kind: 'bind', source: path.join(folder, 'home/x'), target: '/x', readOnly: false },
      { kind: 'bind', source: path.join(folder, 'home'), target: '/home/it', readOnly: true },
      { kind: 'bind', source: '/y', target: '/y', readOnly: false },
      { kind: 'volume', source: 'name.1', target: '/n', readOnly: true },
    ]);
    expect(docker(config, 'b').build).toMatchObject({
      context: path.resolve(folder, '../b'),
      args: { A: '1.10' },
    });
    expect((config.servers.get('c') as ProcessServer).workingDir).toBe(path.join(folder, 'c'));
    expect((config.servers.get('d') as ProcessServer).workingDir).toBe(folder);
  });

  it('keeps values of env as they are written', async () => {
    const config = await load(
      'servers: { a: { image: x, env: { A: 1.10, B: 012, C: true, D: yes, E: 0x1F, F: 1e3, G: "" } } }\n',
    );
    expect(docker(config, 'a').env).toEqual({
      A: '1.10',
      B: '012',
      C: 'true',
      D: 'yes',
      E: '0x1F',
      F: '1e3',
      G: '',
    });
  });

  it.each([
    ['{}', 'shared', ['sampling', 'elicitation']],
    ['{ stateful: true }', 'session', ['sampling', 'elicitation', 'roots']],
    ['{ interactive: true }', 'session', ['sampling', 'elicitation', 'roots']],
    ['{ stateful: true, isolation: shared }', 'shared', ['sampling', 'elicitation']],
    ['{ isolation: session, client_capabilities: [roots] }', 'session', ['roots']],
  ])('%s is isolated as %s', async (keys, isolation, clientCapabilities) => {
    const config = await load(`x-: &k ${keys}\nservers: { a: { <<: *k, image: x } }\n`);
    expect(config.servers.get('a')).toMatchObject({ isolation, clientCapabilities });
  });

  it('may use anchors, aliases and merge keys', async () => {
    const config = await load(`
x-one: &one { limits: { memory: 1g }, user: 7 }
x-two: &two { user: 8, init: true }
x-env: &env { A: b }
servers:
  a: { <<: [*one, *two], image: x, env: *env }
  b: { <<: *two, image: x, user: "9", env: { <<: *env, C: d } }
`);
    expect(docker(config, 'a')).toMatchObject({
      limits: { memoryBytes: 1024 ** 3 },
      user: '7',
      init: true,
      env: { A: 'b' },
    });
    expect(docker(config, 'b')).toMatchObject({ user: '9', init: true, env: { A: 'b', C: 'd' } });
  });

  it('may be JSON, with tabs and a byte-order mark', async () => {
    const text = `\uFEFF{\n\t"$schema": "./servers.schema.json",\n\t"gateway": {"port": 9},\n\t"servers": {\n\t\t"a": {"image": "x"}\n\t}\n}\n`;
    const config = await load(text);
    expect(config.gateway.port).toBe(9);
    expect([...config.servers.keys()]).toEqual(['a']);
  });

  it('permits what is unsafe when it is told to, loudly', async () => {
    const config = await load(
      'gateway: { allow_unsafe: true }\nservers:\n  a: { image: x, network: host, volumes: ["/var/run/docker.sock:/s"], cap_add: [ALL] }\n',
    );
    expect(config.warnings).toEqual([
      'servers.yaml:3:27: servers.a.network: UNSAFE: the network of the host; gateway.allow_unsafe permits it',
      'servers.yaml:3:43: servers.a.volumes[0]: UNSAFE: the engine’s socket /var/run/docker.sock as a volume; gateway.allow_unsafe permits it',
      'servers.yaml:3:81: servers.a.cap_add[0]: UNSAFE: all capabilities at once; gateway.allow_unsafe permits it',
    ]);
    expect((config.servers.get('a') as ContainerServer).volumes).toHaveLength(1);
  });

  it('cannot hide the socket behind a link, nor behind DOCKER_HOST', async () => {
    const folder = await folderWith({
      'servers.yaml': 'servers: { a: { image: x, volumes: ["./link:/s", "./sock:/t"] } }\n',
    });
    await symlink('/run', path.join(folder, 'link'));
    const loading = loadConfig({
      mode: 'validate',
      cwd: folder,
      homeDir: folder,
      env: { DOCKER_HOST: `unix://${folder}/sock/engine` },
    });
    const error = await loading.catch((thrown) => thrown);
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.problems).toMatchObject([
      {
        line: 1,
        column: 37,
        message: expect.stringMatching(/^servers\.a\.volumes\[0\]: refused: the engine’s socket /),
      },
      {
        line: 1,
        column: 50,
        message: `servers.a.volumes[1]: refused: the engine’s socket ${folder}/sock/engine as a volume`,
      },
    ]);
  });

  it('warns of what this version does not act on', async () => {
    const config = await load(
      `gateway: { max_memory: 4g, discover_labels: true, reload: true }
defaults: { health_check: { interval: 10s, path: /health } }
servers:
  a: { image: x, pool: { standby: 1 }, retry: annotated }
  b: { type: http, endpoints: ["https://host/mcp"], proxy: { paths: [/x] } }
  c: { type: template, template: pypi, config: { package: x } }
  d: { image: x, retry: never, pool: { standby: 0 } }
  e: { type: http, endpoints: ["https://host/mcp"], enabled: false }
`,
      { mode: 'start' },
    );
    expect(config.warnings).toEqual([
      'servers.yaml:1:28: gateway.discover_labels: has no effect in this version',
      'servers.yaml:1:51: gateway.reload: has no effect in this version',
      'servers.yaml:2:44: servers.a.health_check.path: has no effect in this version',
      'servers.yaml:4:40: servers.a.retry: has no effect in this version',
      'servers.yaml:5:14: servers.b.type: servers of type http are not started by this version; calls to it fail',
      'servers.yaml:5:53: servers.b.proxy: has no effect in this version',
      'servers.yaml:6:34: servers.c.template: servers of template pypi are not started by this version; calls to it fail',
    ]);
    expect(config.servers.get('b')!.problem).toEqual({
      code: 'config_invalid',
      message: 'servers.yaml:5:14: server b: servers of type http are not started by this version',
      hint: 'Run it as a docker, process or npm template server, or disable it with enabled: false.',
    });
    expect(config.servers.get('c')!.problem?.code).toBe('config_invalid');
  });

  it('warns of a network that its runtime cannot keep', async () => {
    const config = await load(`servers:
  a: { image: x, runtime: runsc, sandbox: keep }
  b: { image: x, runtime: crun, sandbox: keep }
`);
    expect(config.warnings).toEqual([
      'servers.yaml:2:34: servers.a.sandbox: has no effect with runtime runsc; runc, crun, youki can keep a network',
    ]);
    expect([...config.servers.values()].map((server) => 'sandbox' in server && server.sandbox)).toEqual([
      undefined,
      'keep',
    ]);
  });

  it('warns of servers that share a prefix', async () => {
    const config = await load(
      'servers:\n  a: { image: x }\n  b: { image: x, prefix: a }\n  c: { image: x, prefix: a, enabled: false }\n',
    );
    expect(config.warnings).toEqual([
      'servers.yaml:3:26: servers.b: has the same prefix as the server a: names that collide get this server’s name in front; give one of them another prefix',
    ]);
  });

  it('may have no servers, with a warning', async () => {
    const config = await load('servers:\n');
    expect(config.servers.size).toBe(0);
    expect(config.warnings).toEqual(['servers.yaml:1:1: there are no servers']);
  });

  it('may have every key of the format', async () => {
    const yaml = `# yaml-language-server: $schema=./servers.schema.json
gateway:
  host: 127.0.0.1
  port: 8000
  log_level: info
  default_idle_timeout: 300s
  state_dir: ./state
  max_instances: 50
  reload: true
defaults: { env: { TZ: "\${TZ:-UTC}" }, limits: { memory: 512m } }
servers:
  context7:
    description: Documentation retrieval
    image: mcp-context7
    build: ./servers/context7
    command: [node, server.js]
    env: { CONTEXT7_API_KEY: "\${CONTEXT7_API_KEY:-}" }
    idle_timeout: 300
    pause_after: 60s
    tools: [get_documentation, search_code_examples]
    prefix: context7
    isolation: shared
    pool: { min: 0, max: 3, standby: 1 }
    concurrency: 8
    load_balancing: least_connections
    timeouts: { start: 30s, handshake: 10s, call: 300s, client: 300s, stop: 10s }
    health_check: { interval: 30s }
    limits: { memory: 512m, cpus: 1, pids: 128 }
    network: mcp-network
    user: auto
    read_only: true
    fallback: process
    enabled: true
  files:   { type: process, command: [npx, -y, "@modelcontextprotocol/server-filesystem", "."], working_dir: . }
  linear:  { type: http, endpoints: ["https://mcp.example/mcp"], load_balancing: round_robin, health_check: { path: /health }, headers: { Authorization: "Bearer \${LINEAR_TOKEN}" } }
  memory:  { type: template, template: npm, config: { package: "@modelcontextprotocol/server-memory" }, volumes: ["memory:/data"], env: { MEMORY_FILE_PATH: /data/memory.json } }
  notes:   { image: mcp-notes, network: none, volumes: ["./data:/data:ro", "notes:/notes"] }
  time:    { type: template, template: pypi, config: { package: mcp-server-time } }
`;
    const config = await load(yaml, { env: { LINEAR_TOKEN: 'secret' } });
    expect([...config.servers.keys()]).toEqual(['context7', 'files', 'linear', 'memory', 'notes', 'time']);
    expect(config.servers.get('linear')).toMatchObject({ headers: { Authorization: 'Bearer secret' } });
    expect(await complaints(yaml)).toEqual([
      expect.stringContaining('servers.yaml:35:162: servers.linear: the variable LINEAR_TOKEN is not set'),
    ]);
  });

  it('is what `example` prints', async () => {
    const config = await load(exampleConfig());
    expect(config.warnings).toEqual([]);
    expect([...config.servers.values()].filter(({ enabled }) => enabled).length).toBeGreaterThan(0);
  });
});

describe('flags and environment', () => {
  const yaml =
    'gateway: { host: 10.0.0.1, port: 1, log_level: warn, default_idle_timeout: 1s, state_dir: ./a }\nservers: {}\n';
  const env = {
    GATEWAY_HOST: '10.0.0.2',
    GATEWAY_PORT: '2',
    LOG_LEVEL: 'DEBUG',
    DEFAULT_IDLE_TIMEOUT: '20',
    GATEWAY_STATE_DIR: 'b',
  };

  it('beat the file: the environment', async () => {
    const { folder, gateway } = await load(yaml, { env });
    expect(gateway).toMatchObject({
      host: '10.0.0.2',
      port: 2,
      logLevel: 'debug',
      defaultIdleTimeoutMs: 20_000,
      stateDir: path.join(folder, 'b'),
    });
  });

  it('beat the environment: flags', async () => {
    const { gateway } = await load(yaml, {
      env,
      overrides: { host: '10.0.0.3', port: 3, logLevel: 'Error' },
    });
    expect(gateway).toMatchObject({ host: '10.0.0.3', port: 3, logLevel: 'error' });
  });

  it('may stand in .env, and count as unset when they are empty', async () => {
    const { gateway } = await load(yaml, {
      env: { GATEWAY_HOST: '' },
      files: { '.env': 'GATEWAY_PORT=4\n' },
    });
    expect(gateway).toMatchObject({ host: '10.0.0.1', port: 4 });
  });

  it('are named when they are wrong, and hide nothing that is wrong in the file', async () => {
    const lines = await complaints('gateway: { port: 70000 }\nservers: {}\n', {
      env: { GATEWAY_PORT: 'eighty' },
      overrides: { logLevel: 'loud' },
    });
    expect(lines).toEqual([
      'servers.yaml:1:18: gateway.port: found 70000, expected 65535 or less',
      'the environment variable GATEWAY_PORT: gateway.port: found "eighty", expected a number',
      '--log-level: gateway.log_level: found "loud", expected error, warn, info or debug',
    ]);
  });
});

describe('finding the file', () => {
  const yaml = (port: number) => `gateway: { port: ${port} }\nservers: {}\n`;

  it('takes the named one, then MCP_REGISTRY, then ./servers.yaml, then the one of the user', async () => {
    const cwd = await folderWith({
      'named.yaml': yaml(1),
      'registry.yaml': yaml(2),
      'home/.config/mcp-gateway/servers.yaml': yaml(4),
      'here/servers.yaml': yaml(3),
    });
    const homeDir = path.join(cwd, 'home');
    const portOf = async (options: Partial<LoadOptions>) =>
      (await loadConfig({ mode: 'start', cwd, homeDir, env: {}, ...options })).gateway.port;
    const env = { MCP_REGISTRY: 'registry.yaml' };
    expect(await portOf({ file: 'named.yaml', env })).toBe(1);
    expect(await portOf({ env })).toBe(2);
    expect(await portOf({ cwd: path.join(cwd, 'here') })).toBe(3);
    expect(await portOf({})).toBe(4);
    expect(await portOf({ env: { MCP_REGISTRY: '' } })).toBe(4);
  });

  it('says where it looked', async () => {
    const cwd = await folderWith({});
    const loading = loadConfig({ mode: 'start', cwd, homeDir: '/nobody', env: {} });
    await expect(loading).rejects.toThrow(
      `servers.yaml: there is no configuration: tried --config, MCP_REGISTRY, ${cwd}/servers.yaml and /nobody/.config/mcp-gateway/servers.yaml; make one: mcp-gateway example --output servers.yaml`,
    );
  });

  it('says which file is not there, or cannot be read', async () => {
    const cwd = await folderWith({ 'folder/x': '' });
    const options = { mode: 'start', cwd, homeDir: cwd } as const;
    await expect(loadConfig({ ...options, env: {}, file: 'none.yaml' })).rejects.toThrow(
      'none.yaml: there is no such file; it was named on the command line; make one: mcp-gateway example --output none.yaml',
    );
    await expect(loadConfig({ ...options, env: { MCP_REGISTRY: 'none.yaml' } })).rejects.toThrow(
      'none.yaml: there is no such file; MCP_REGISTRY names it; make one: mcp-gateway example --output none.yaml',
    );
    await expect(loadConfig({ ...options, env: {}, file: 'folder' })).rejects.toThrow(
      'folder: cannot be read: it is a folder',
    );
  });
});

describe('garbage', () => {
  const valid = `gateway: { port: 8000, log_level: info }
defaults: &d { env: { TZ: "\${TZ:-UTC}" }, limits: { memory: 512m } }
servers:
  one: { <<: *d, image: x, tools: { allow: [a] }, volumes: ["./a:/b:ro"] }
  two:
    type: process
    command: [npx, -y, "pkg"]
    env:
      TOKEN: \${TOKEN}
`;

  /** Loads or complains, and complains about places that exist. */
  async function survives(text: string, mode: LoadOptions['mode']): Promise<void> {
    const folder = path.join(root, 'garbage');
    await mkdir(folder, { recursive: true });
    await writeFile(path.join(folder, 'servers.yaml'), text);
    try {
      await loadConfig({ mode, cwd: folder, homeDir: folder, env: {} });
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      // What a decoder makes of the text, a lone surrogate for one.
      const lines = Buffer.from(text).toString('utf8').split('\n');
      expect(error.problems.length).toBeGreaterThan(0);
      for (const { file, line, column } of error.problems) {
        expect(file).toBe('servers.yaml');
        if (line === 0) continue;
        expect(line).toBeLessThanOrEqual(lines.length);
        expect(column).toBeGreaterThanOrEqual(1);
        expect(column).toBeLessThanOrEqual(lines[line - 1]!.length + 1);
      }
    }
  }

  const mode = fc.constantFrom('validate' as const, 'start' as const);

  it('of any text ends in a complaint with a place, never in another error', async () => {
    const word = fc.constantFrom(
      ...[
        'servers:',
        'gateway:',
        'a:',
        '\n',
        '\n  ',
        '\n    ',
        '- ',
        '{',
        '}',
        '[',
        ']',
        ': ',
        '${',
        '*d',
        '&d ',
        '<<: ',
        '"',
        '|',
        '?',
        '!x ',
        '\t',
        '---',
        'image: x',
      ],
    );
    const text = fc
      .array(fc.oneof({ weight: 5, arbitrary: word }, fc.string({ unit: 'binary' })))
      .map((words) => words.join(''));
    await fc.assert(fc.asyncProperty(text, mode, survives), { numRuns: 400 });
  });

  it('made from a valid file by one cut and one paste, neither', async () => {
    const edit = fc.tuple(fc.nat(valid.length), fc.nat(30), fc.string());
    await fc.assert(
      fc.asyncProperty(edit, mode, ([at, length, paste], mode) =>
        survives(valid.slice(0, at) + paste + valid.slice(at + length), mode),
      ),
      { numRuns: 400 },
    );
  });

  it('of any shape in any section, neither', async () => {
    const keys = fc.constantFrom(
      ...'image build command type env tools volumes pool limits timeouts network isolation fallback template config endpoints enabled prefix client_capabilities cap_add health_check __proto__ constructor x'.split(
        ' ',
      ),
    );
    const leaf = fc.oneof(
      fc.string(),
      fc.double(),
      fc.boolean(),
      fc.constant(null),
      fc.constantFrom('docker', 'process', 'template', 'http', '${X}', '${X:-y}', '/:/x', 'host', 'npm'),
    );
    const { value } = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4, withCrossShrink: true },
        leaf,
        fc.array(tie('value'), { maxLength: 3 }),
        fc.dictionary(keys, tie('value'), { maxKeys: 6 }),
      ),
    }));
    const section = fc.dictionary(keys, value, { maxKeys: 8 });
    const document = fc.record(
      {
        servers: fc.dictionary(fc.constantFrom('a', 'b', 'c', '__proto__'), section),
        defaults: section,
        gateway: section,
      },
      { requiredKeys: ['servers'] },
    );
    await fc.assert(
      fc.asyncProperty(document, mode, (value, mode) => survives(JSON.stringify(value, null, 1), mode)),
      { numRuns: 600 },
    );
  });
});
