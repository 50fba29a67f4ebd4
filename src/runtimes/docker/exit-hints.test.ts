import { describe, expect, it } from 'vitest';
import type { ContainerServer } from '../../config/schema.ts';
import { type ExitClues, exitHint } from './exit-hints.ts';

const server = {
  name: 'notes',
  command: undefined,
  entrypoint: undefined,
  volumes: [{ kind: 'volume', source: 'notes', target: '/notes', readOnly: false }],
  limits: { memoryBytes: 512 * 1024 ** 2, cpus: 1, pids: 128 },
} as unknown as ContainerServer;

const hint = (clues: Partial<ExitClues>, changes: Partial<ContainerServer> = {}) =>
  exitHint(
    { ...server, ...changes },
    { code: 1, stderr: [], aliveMs: 100, imageEntrypoint: [], user: '65534:65534', ...clues },
  );

describe('the hint of an exit', () => {
  it.each([
    [
      "Error: EROFS: read-only file system, open '/app/cache/state.json'",
      /\/app\/cache\/state\.json.*tmpfs: \[\/app\/cache\]/,
    ],
    ["OSError: [Errno 30] Read-only file system: '/srv/x'", /\/srv\/x.*\[\/srv\]/],
    [
      "Error: EACCES: permission denied, mkdir '/notes/a'",
      /65534:65534 may not use \/notes\/a: give notes to/,
    ],
    ['touch: /app/x: Permission denied', /may not use \/app\/x: make it readable/],
    ['standard_init_linux.go:228: exec user process caused: exec format error', /another architecture/],
    ["Error: Cannot find module '/app/missing.js'", /has no \/app\/missing\.js/],
    ["ModuleNotFoundError: No module named 'mcp'", /has no mcp/],
  ])('of %j', (line, expected) => {
    expect(hint({ stderr: ['starting', line, '    at somewhere (/usr/lib/x.js:1:2)'] })).toMatch(expected);
  });

  it('tells a command that an ENTRYPOINT swallowed from one that it runs', () => {
    const command = ['node', 'server.js'];
    expect(hint({ imageEntrypoint: ['python', 'main.py'] }, { command })).toMatch(
      /ENTRYPOINT \["python","main\.py"\] took `command`/,
    );
    expect(hint({ code: 0, imageEntrypoint: ['server', 'help'] }, { command })).toMatch(/took `command`/);
    expect(hint({ code: 0, aliveMs: 60_000, imageEntrypoint: ['server'] }, { command })).toBeUndefined();
    expect(hint({ imageEntrypoint: ['docker-entrypoint.sh'] }, { command })).toBeUndefined();
    expect(hint({ imageEntrypoint: ['/usr/bin/tini', '--'] }, { command })).toBeUndefined();
    expect(hint({ imageEntrypoint: ['python'] }, { command, entrypoint: ['sh'] })).toBeUndefined();
    expect(hint({ imageEntrypoint: ['server'] }, { command: ['--stdio'] })).toBeUndefined();
  });

  it('of exit codes that shells give', () => {
    expect(hint({ code: 127 })).toMatch(/not found in the image/);
    expect(hint({ code: 126 })).toMatch(/not executable/);
    expect(hint({ code: 0 })).toMatch(/stdio/);
    expect(hint({ code: 0, aliveMs: 60_000 })).toBeUndefined();
    expect(hint({ code: 2, stderr: ['something else'] })).toBeUndefined();
  });

  it('of memory names the limit', () => {
    expect(hint({ outOfMemory: true })).toMatch(/limits\.memory \(now 512m\) of server notes/);
  });
});
