import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { abortable, SingleFlight, within } from '../../base/async.ts';
import { GatewayError, messageOf, systemCodeOf } from '../../base/errors.ts';
import { replaceFile } from '../../base/replace-file.ts';
import { warmUpArgument, warmUpScript } from './warm-up.ts';

const registryLimitMs = 15_000;
/** npm's own rules: what a package or a version cannot contain cannot end up in a command line either. */
const packagePattern = /^(?:@[a-z0-9~*-][a-z0-9._~*-]*\/)?[a-z0-9~-][a-z0-9._~-]*$/i;
const versionPattern = /^\d+\.\d+\.\d+(?:[-+.][0-9A-Za-z.+-]*)?$/;

/** What is to be installed. */
export interface NpmPackage {
  package: string;
  /** Exact. */
  version: string;
  /** Which of its commands; undefined: the one named like the package, or the only one. */
  bin?: string;
}

export interface NpmRecipeOptions {
  /** As whom it will run: `65534:65534`. */
  user: string;
  /** Mount points of named volumes, to be owned by that user. */
  volumeTargets: string[];
  /** PEM of the authorities that the install trusts beside Node's own. */
  caCertificates?: string;
}

/** An image of one npm package: its Dockerfile, and a tag that changes with what is in it. */
export interface NpmRecipe {
  tag: string;
  dockerfile: string;
  files: { name: string; content: string }[];
}

/** How an npm package becomes an image: installed, its command linked, Node's compile cache filled once and read-only. */
export function npmRecipe(npm: NpmPackage, options: NpmRecipeOptions): NpmRecipe {
  const { user, volumeTargets, caCertificates } = options;
  const install = `${npm.package}@${npm.version}`;
  const cache = '/app/.compile-cache';
  const warmUp = warmUpArgument({ user, command: ['node', '/app/server'], folder: undefined, cache });
  const lines = [
    'ARG NODE_IMAGE=node:26-bookworm-slim',
    'FROM $NODE_IMAGE',
    'WORKDIR /app',
    'ENV NODE_ENV=production',
    ...(caCertificates ? ['COPY ca.pem /tmp/ca.pem', 'ARG NODE_EXTRA_CA_CERTS=/tmp/ca.pem'] : []),
    // Declared before its use alone, and no part of the recipe's digest: a version is the same wherever it comes from.
    'ARG npm_config_registry',
    `RUN npm install --omit=dev --no-audit --no-fund --no-update-notifier --fetch-retry-mintimeout=1000 ${shellQuote(install)} && rm -rf /root/.npm`,
    'COPY *.cjs /app/',
    `RUN node link-bin.cjs ${shellQuote(npm.package)} ${shellQuote(npm.bin ?? '')} && chmod -R a+rX /app`,
    `RUN node warm-up.cjs ${shellQuote(warmUp)}`,
    `ENV NODE_COMPILE_CACHE=${cache}`,
  ];
  for (const target of volumeTargets) {
    lines.push(`RUN mkdir -p ${shellQuote(target)} && chown ${shellQuote(user)} ${shellQuote(target)}`);
  }
  // Node by itself rather than through a shell or npx: both cost a process and time at each start.
  lines.push(`USER ${user}`, 'ENTRYPOINT ["node", "/app/server"]');
  const dockerfile = `${lines.join('\n')}\n`;
  const files = [
    { name: 'link-bin.cjs', content: linkBin },
    { name: 'warm-up.cjs', content: warmUpScript },
    ...(caCertificates ? [{ name: 'ca.pem', content: caCertificates }] : []),
  ];
  const hash = createHash('sha256')
    .update(JSON.stringify([dockerfile, files]))
    .digest('hex');
  const name = npm.package
    .replace(/^@/, '')
    .replace(/[^a-z0-9]+/gi, '-')
    .replace(/^-+|-+$/g, '')
    .toLowerCase();
  const version = npm.version.replace(/[^\w.-]/g, '-');
  return { tag: `mcp-gateway-npm-${name}:${version}-${hash.slice(0, 12)}`, dockerfile, files };
}

const shellQuote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Links /app/server to the package's command. Node follows the link, so imports are resolved from the package. */
const linkBin = `
const { existsSync, readFileSync, symlinkSync } = require('node:fs');
const path = require('node:path');
const [, , name, wanted] = process.argv;
const folder = path.join('/app/node_modules', name);
const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
const own = name.split('/').pop();
const bins = typeof manifest.bin === 'string' ? { [own]: manifest.bin } : (manifest.bin ?? {});
const names = Object.keys(bins);
const chosen = wanted || (names.includes(own) ? own : names.length === 1 ? names[0] : undefined);
if (!chosen || !bins[chosen]) {
  const found = names.length === 0 ? 'none' : names.join(', ');
  console.error('mcp-gateway: ' + name + ' has ' + (wanted ? 'no command ' + wanted : names.length > 1 ? 'several commands' : 'no command') + '; found: ' + found + '. Set config.bin in servers.yaml.');
  process.exit(1);
}
const file = path.join(folder, bins[chosen]);
if (!existsSync(file)) {
  console.error('mcp-gateway: the command ' + chosen + ' of ' + name + ' is missing: ' + bins[chosen]);
  process.exit(1);
}
const shebang = readFileSync(file, 'utf8').split('\\n', 1)[0];
if (shebang.startsWith('#!') && !/\\bnode\\b/.test(shebang)) {
  console.error('mcp-gateway: the command ' + chosen + ' of ' + name + ' is no Node script (' + shebang + '); use an image of its own.');
  process.exit(1);
}
symlinkSync(path.relative('/app', file), '/app/server');
`;

export interface NpmVersionsOptions {
  stateDir: string;
  env: NodeJS.ProcessEnv;
}

/** Which version of a package to run where servers.yaml names none: the newest, asked for once and kept in `templates.json`. */
export class NpmVersions {
  readonly #options: NpmVersionsOptions;
  readonly #flight = new SingleFlight<string>();
  #kept: Record<string, string> | undefined;

  constructor(options: NpmVersionsOptions) {
    this.#options = options;
  }

  /** The registry that npm would use. */
  async registry(): Promise<string> {
    const { env } = this.#options;
    const given = env.npm_config_registry ?? env.NPM_CONFIG_REGISTRY;
    const url = given ?? (await import('registry-url')).default();
    return url.endsWith('/') ? url : `${url}/`;
  }

  /** Throws GatewayError `config_invalid` for a name or version that cannot be one, `image_missing` when no registry answers. */
  async resolve(
    server: { name: string; package: string; version: string | undefined },
    signal?: AbortSignal,
  ): Promise<string> {
    if (!packagePattern.test(server.package)) {
      throw invalid(server.name, `config.package ${JSON.stringify(server.package)} is no package name`);
    }
    if (server.version !== undefined) {
      if (versionPattern.test(server.version)) return server.version;
      throw invalid(
        server.name,
        `config.version ${JSON.stringify(server.version)} is no exact version such as 1.2.3`,
      );
    }
    this.#kept ??= await this.#read();
    const kept = this.#kept[server.package];
    // Joined by others, so that one's abort must not end it for all.
    return (
      kept ??
      abortable(
        this.#flight.run(server.package, () => this.#newest(server)),
        signal,
      )
    );
  }

  async #newest(server: { name: string; package: string }): Promise<string> {
    let version: string;
    try {
      const { default: packageJson } = await import('package-json');
      const newest = packageJson(server.package, { registryUrl: await this.registry() });
      ({ version } = await within(
        newest,
        registryLimitMs,
        () => new Error(`no answer in ${registryLimitMs / 1000} s`),
      ));
      if (!versionPattern.test(version)) throw new Error('the registry named no version');
    } catch (error) {
      const code = systemCodeOf((error as { cause?: unknown }).cause);
      const reason = [messageOf(error), code].filter(Boolean).join(': ');
      throw new GatewayError(
        'image_missing',
        `Server ${server.name}: the newest version of ${server.package} is unknown: ${reason}.`,
        {
          server: server.name,
          hint: 'Check config.package and the network, or pin config.version.',
          cause: error,
        },
      );
    }
    this.#kept = { ...this.#kept, [server.package]: version };
    // A state folder that cannot be written costs the next start a look into the registry.
    await this.#write(this.#kept).catch(() => {});
    return version;
  }

  get #file(): string {
    return path.join(this.#options.stateDir, 'templates.json');
  }

  async #read(): Promise<Record<string, string>> {
    try {
      return (JSON.parse(await readFile(this.#file, 'utf8')) as { npm?: Record<string, string> }).npm ?? {};
    } catch {
      return {};
    }
  }

  async #write(npm: Record<string, string>): Promise<void> {
    await mkdir(this.#options.stateDir, { recursive: true, mode: 0o700 });
    await replaceFile(this.#file, `${JSON.stringify({ npm }, null, 2)}\n`);
  }
}

function invalid(server: string, what: string): GatewayError {
  return new GatewayError('config_invalid', `Server ${server}: ${what}.`, {
    server,
    hint: 'Correct the server’s config in servers.yaml.',
  });
}
