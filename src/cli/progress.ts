import type { SingleBar } from 'cli-progress';

/** Shows long work, a line for each piece: bars on a terminal, plain lines elsewhere. */
export interface Progress {
  /** `fraction` 0 to 1, undefined when nobody knows. */
  update(name: string, text: string, fraction?: number): void;
  done(name: string, text: string): void;
  fail(name: string, text: string): void;
  /** A line among the others. */
  print(line: string): void;
  stop(): void;
}

/** `stream` decides: bars where it is a terminal that can move its cursor. */
export async function createProgress(stream: NodeJS.WriteStream = process.stderr): Promise<Progress> {
  return stream.isTTY && process.env.TERM !== 'dumb' ? bars(stream) : lines(stream);
}

function lines(stream: NodeJS.WriteStream): Progress {
  const last = new Map<string, string>();
  const print = (line: string) => void stream.write(`${line}\n`);
  return {
    update(name, text) {
      // A build repeats itself: a line is worth printing only when it says something new.
      if (last.get(name) === text) return;
      last.set(name, text);
      print(`  ${name}: ${text}`);
    },
    done: (name, text) => print(`✓ ${name}: ${text}`),
    fail: (name, text) => print(`✗ ${name}: ${text}`),
    print,
    stop() {},
  };
}

async function bars(stream: NodeJS.WriteStream): Promise<Progress> {
  const { default: cliProgress } = await import('cli-progress');
  const multi = new cliProgress.MultiBar(
    {
      stream,
      format: '{mark} {name} {bar} {text}',
      barsize: 16,
      hideCursor: true,
      forceRedraw: true,
      linewrap: false,
      gracefulExit: false,
      emptyOnZero: true,
    },
    cliProgress.Presets.shades_classic,
  );
  const known = new Map<string, SingleBar>();
  const show = (name: string, mark: string, text: string, fraction: number | undefined) => {
    const bar = known.get(name) ?? multi.create(100, 0, { mark: ' ', name: name.padEnd(14), text: '' });
    known.set(name, bar);
    const room = Math.max(20, (stream.columns ?? 80) - 38);
    const value = fraction === undefined ? bar.getProgress() * 100 : Math.round(fraction * 100);
    bar.update(value, { mark, text: text.length > room ? `${text.slice(0, room - 1)}…` : text });
  };
  return {
    update: (name, text, fraction) => show(name, ' ', text, fraction),
    done: (name, text) => show(name, '✓', text, 1),
    fail: (name, text) => show(name, '✗', text, undefined),
    print: (line) => (known.size > 0 ? multi.log(`${line}\n`) : void stream.write(`${line}\n`)),
    stop() {
      multi.stop();
      known.clear();
    },
  };
}
