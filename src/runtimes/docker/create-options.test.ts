import { describe, expect, it } from 'vitest';
import { chooseUser } from './create-options.ts';

const rootful = { rootless: false, ownUid: 1000 };
const rootless = { rootless: true, ownUid: 1000 };

describe('user: auto', () => {
  it('is the owner of a writable bind mount before all else', () => {
    expect(chooseUser('auto', 'node', { uid: 4711, gid: 12 }, rootful)).toMatchObject({
      spec: '4711:12',
      uid: 4711,
    });
  });

  it('is the image’s user, unless that is root', () => {
    expect(chooseUser('auto', 'node', undefined, rootful)).toEqual({ spec: undefined, text: 'node' });
    expect(chooseUser('auto', '1001:1002', undefined, rootful)).toMatchObject({
      spec: undefined,
      uid: 1001,
      gid: 1002,
    });
    for (const root of ['', 'root', '0', '0:0', 'root:root']) {
      expect(chooseUser('auto', root, undefined, rootful).spec).toBe('65534:65534');
    }
  });

  it('is root inside on rootless engines, where that is the engine’s own user', () => {
    expect(chooseUser('auto', '', undefined, rootless).spec).toBe('0:0');
    expect(chooseUser('auto', '', { uid: 1000, gid: 1000 }, rootless).spec).toBe('0:0');
    expect(chooseUser('auto', '', { uid: 1, gid: 1 }, rootless).spec).toBe('65534:65534');
    expect(chooseUser('auto', 'node', undefined, rootless).spec).toBeUndefined();
  });

  it('is not asked where a user is named', () => {
    expect(chooseUser('1000', 'node', { uid: 1, gid: 1 }, rootless)).toMatchObject({
      spec: '1000',
      uid: 1000,
      gid: 0,
    });
    expect(chooseUser('app', '', undefined, rootful)).toEqual({ spec: 'app', text: 'app' });
  });
});
