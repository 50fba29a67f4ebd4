import { afterAll, describe, expect, it } from 'vitest';
import { engine } from '../e2e/engine.ts';
import { root, run } from '../programs.ts';

const NODE_STAND_IN = 'mcp-gateway-test/node-base:1';
const PYTHON_STAND_IN = 'mcp-gateway-test/python-base:1';
const canMake = (await run('sh', ['-c', 'command -v apt-get && command -v dpkg-deb'])).code === 0;
const env = { ...process.env, NODE_IMAGE: NODE_STAND_IN, PYTHON_IMAGE: PYTHON_STAND_IN };

const inContainer = (image: string, command: string, ...options: string[]) =>
  run('docker', ['run', '--rm', ...options, image, 'sh', '-c', command]);

/** What only a container on the locked-down defaults shows. */
const LOCKED = [
  '--read-only',
  '--tmpfs',
  '/tmp',
  '--user',
  '65534',
  '--cap-drop',
  'ALL',
  '--network',
  'none',
];

describe.skipIf(!canMake)('base-images.sh, without a registry of images', () => {
  afterAll(async () => {
    for (const image of [NODE_STAND_IN, PYTHON_STAND_IN])
      await engine
        .getImage(image)
        .remove()
        .catch(() => {});
  });

  it('makes a Node image in which packages install', { timeout: 240_000 }, async () => {
    const made = await run(`${root}scripts/base-images.sh`, ['--force', 'node'], { env, limitMs: 200_000 });
    expect(made, made.stderr).toMatchObject({ code: 0 });
    const { Config } = await engine.getImage(NODE_STAND_IN).inspect();
    expect(Config.Labels).toMatchObject({ 'mcp-gateway.base': 'local' });

    const tried = await inContainer(
      NODE_STAND_IN,
      'set -e; node --version; npx --version >/dev/null; id -u node; cd /tmp; npm install --silent is-number; node -p "require(\'is-number\')(5)"',
    );
    expect(tried, tried.stderr).toMatchObject({ code: 0 });
    expect(tried.stdout).toMatch(/^v26\.\S+\n1000\ntrue\n$/);
  });

  it('runs locked down', async () => {
    const tried = await run('docker', [
      'run',
      '--rm',
      ...LOCKED,
      NODE_STAND_IN,
      '-e',
      'console.log(process.getuid())',
    ]);
    expect(tried, tried.stderr).toMatchObject({ code: 0, stdout: '65534\n' });
  });

  it('makes a Python image in which packages install', { timeout: 240_000 }, async () => {
    const made = await run(`${root}scripts/base-images.sh`, ['--force', 'python'], { env, limitMs: 200_000 });
    expect(made, made.stderr).toMatchObject({ code: 0 });
    const tried = await inContainer(
      PYTHON_STAND_IN,
      'set -e; pip install --quiet six; python3 -c "import six, ssl, sqlite3, zoneinfo; print(six.PY3)"; python3 -m venv /tmp/v; /tmp/v/bin/pip --version >/dev/null',
    );
    expect(tried, tried.stderr).toMatchObject({ code: 0, stdout: 'True\n' });
  });

  it('keeps an image that exists', async () => {
    const before = await engine.getImage(NODE_STAND_IN).inspect();
    const kept = await run(`${root}scripts/base-images.sh`, ['node'], { env });
    expect(kept).toMatchObject({ code: 0 });
    expect((await engine.getImage(NODE_STAND_IN).inspect()).Id).toBe(before.Id);
  });
});

it('says how to get an engine when none answers', async () => {
  const result = await run(`${root}scripts/base-images.sh`, ['node'], {
    env: { ...process.env, DOCKER_HOST: 'unix:///nowhere/docker.sock' },
  });
  expect(result.code).toBe(1);
  expect(result.stderr).toContain('make engine');
});
