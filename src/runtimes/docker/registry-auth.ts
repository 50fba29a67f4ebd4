import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type Dockerode from 'dockerode';

const helperLimitMs = 10_000;

interface DockerConfig {
  auths?: Record<string, { auth?: string; identitytoken?: string }>;
  credsStore?: string;
  credHelpers?: Record<string, string>;
}

/** The credentials that `docker login` left for an image's registry, if any. `indexServer` is the engine's own name of its default one. */
export async function registryCredentials(
  image: string,
  env: NodeJS.ProcessEnv,
  indexServer: string | undefined,
): Promise<Dockerode.AuthConfig | undefined> {
  const folder = env.DOCKER_CONFIG ?? path.join(os.homedir(), '.docker');
  let config: DockerConfig;
  try {
    config = JSON.parse(await readFile(path.join(folder, 'config.json'), 'utf8')) as DockerConfig;
  } catch {
    return undefined;
  }
  const key = registryOf(image) ?? indexServer;
  if (key === undefined) return undefined;
  const helper = config.credHelpers?.[key] ?? config.credsStore;
  if (helper) {
    const found = await askHelper(helper, key);
    if (found) return found;
  }
  const entry = config.auths?.[key] ?? config.auths?.[`https://${key}`];
  if (!entry?.auth) return undefined;
  const decoded = Buffer.from(entry.auth, 'base64').toString();
  const colon = decoded.indexOf(':');
  if (colon === -1) return undefined;
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1), serveraddress: key };
}

/** An image reference's registry: its first part, where that has a dot, a colon or is localhost; undefined: the engine's default. */
function registryOf(image: string): string | undefined {
  const first = image.split('/')[0]!;
  return image.includes('/') && (/[.:]/.test(first) || first === 'localhost') ? first : undefined;
}

function askHelper(helper: string, registry: string): Promise<Dockerode.AuthConfig | undefined> {
  return new Promise((resolve) => {
    const child = execFile(
      `docker-credential-${helper}`,
      ['get'],
      { timeout: helperLimitMs },
      (error, stdout) => {
        if (error) return resolve(undefined);
        try {
          const { Username, Secret } = JSON.parse(stdout) as { Username: string; Secret: string };
          resolve({ username: Username, password: Secret, serveraddress: registry });
        } catch {
          resolve(undefined);
        }
      },
    );
    child.stdin?.on('error', () => {});
    child.stdin?.end(registry);
  });
}
