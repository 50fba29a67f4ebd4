import { describe, expect, it } from 'vitest';
import { NpmVersions, npmRecipe } from './npm.ts';

const options = { user: '65534:65534', volumeTargets: [] as string[] };

describe('the recipe of an npm package', () => {
  it('has a tag that changes with what is in the image, and with nothing else', () => {
    const npm = { package: '@Scope/some_server', version: '1.2.3' };
    const { tag } = npmRecipe(npm, options);
    expect(tag).toMatch(/^mcp-gateway-npm-scope-some-server:1\.2\.3-[0-9a-f]{12}$/);
    expect(npmRecipe(npm, options).tag).toBe(tag);
    const others = [
      npmRecipe({ ...npm, version: '1.2.4' }, options),
      npmRecipe({ ...npm, bin: 'other' }, options),
      npmRecipe(npm, { ...options, user: '0:0' }),
      npmRecipe(npm, { ...options, volumeTargets: ['/data'] }),
      npmRecipe(npm, { ...options, caCertificates: 'PEM' }),
    ];
    expect(new Set([tag, ...others.map((other) => other.tag)]).size).toBe(6);
  });

  it('runs the command by Node itself as the chosen user, who owns the mount points', () => {
    const { dockerfile } = npmRecipe(
      { package: 'server', version: '1.0.0' },
      { user: '1000:1000', volumeTargets: ["/it's data"] },
    );
    expect(dockerfile).toContain('npm install --omit=dev');
    expect(dockerfile).toContain("'server@1.0.0'");
    expect(dockerfile).toContain("mkdir -p '/it'\\''s data' && chown '1000:1000' '/it'\\''s data'");
    expect(dockerfile.trimEnd().split('\n').slice(-2)).toEqual([
      'USER 1000:1000',
      'ENTRYPOINT ["node", "/app/server"]',
    ]);
  });
});

describe('the registry', () => {
  const registry = (env: NodeJS.ProcessEnv) => new NpmVersions({ stateDir: '', env }).registry();

  it('is npm’s own choice, and its variable wins', async () => {
    expect(await registry({})).toMatch(/^https:\/\/.*\/$/);
    expect(await registry({ npm_config_registry: 'https://other.example/mirror' })).toBe(
      'https://other.example/mirror/',
    );
  });
});
