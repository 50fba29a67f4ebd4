import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { asGatewayError } from '../base/errors.ts';
import { holdHeapGrowth } from './heap-growth.ts';
import { version } from './version.ts';

/** 0 fine, 1 failed, 2 wrong usage or configuration. */
export type ExitCode = 0 | 1 | 2;

/** Options that every command which reads servers.yaml takes. */
export interface ConfigOptions {
  config?: string;
  registry?: string;
  host?: string;
  port?: number;
}

function port(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 0 && value <= 65535) return value;
  throw new InvalidArgumentError('expected a port, 0 to 65535.');
}

function positiveInteger(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new InvalidArgumentError('expected a number above 0.');
}

const withConfig = (command: Command) =>
  command
    .option(
      '-c, --config <file>',
      'servers.yaml to use (default: ./servers.yaml, else ~/.config/mcp-gateway/servers.yaml)',
    )
    .option('--registry <file>', 'the same as --config; also MCP_REGISTRY');

const withGateway = (command: Command) =>
  withConfig(command)
    .option('--host <address>', 'where the gateway listens')
    .option('--port <number>', 'its port', port)
    .option('--json', 'JSON instead of text');

/** Runs the command line and returns its exit code. `argv` as in `process.argv`. */
export async function runCli(argv: string[]): Promise<ExitCode> {
  let exitCode: ExitCode = 0;
  // Each command's module is loaded when it runs: `start` must be quick and `validate` needs no engine.
  const action =
    <Args extends unknown[]>(run: (...args: Args) => Promise<ExitCode>) =>
    async (...args: Args) => {
      exitCode = await run(...args);
    };

  const program = new Command('mcp-gateway')
    .description(
      'One HTTP endpoint in front of many MCP servers, each in a container that exists only while it is needed.',
    )
    .version(version)
    .showHelpAfterError('(mcp-gateway --help lists the commands)')
    .exitOverride();

  withConfig(program.command('start'))
    .description('run the gateway in the foreground')
    .option('--host <address>', 'address to bind (default 127.0.0.1)')
    .option('--port <number>', 'port to bind (default 8000)', port)
    .option('--log-level <level>', 'error, warn, info or debug')
    .option('--allow-unauthenticated', 'permit an address beyond loopback although nothing checks who calls')
    .option(
      '--fallback',
      'run servers that declare `fallback: process` without a container where no engine answers',
    )
    .option(
      '--end-when-unused <duration>',
      'end when for this long (such as 60s) no client was connected and nothing but /health was asked for',
    )
    .action(
      action(async (options) => {
        holdHeapGrowth();
        return (await import('./start.ts')).start(options);
      }),
    );

  withConfig(program.command('stdio'))
    .description(
      'be an MCP server on stdin and stdout; starts a gateway in the background where none answers',
    )
    .option('--server <name>', 'this server alone, its names without a prefix')
    .option('--host <address>', 'where the gateway listens, or is to listen')
    .option('--port <number>', 'its port', port)
    .option('--log-level <level>', 'of a gateway that is started: error, warn, info or debug')
    .option('--allow-unauthenticated', 'of a gateway that is started: as of `start`')
    .option('--fallback', 'of a gateway that is started: as of `start`')
    .option('--end-when-unused <duration>', 'of a gateway that is started: as of `start`', '60s')
    .action(action(async (options) => (await import('./stdio.ts')).stdio(options)));

  program
    .command('validate')
    .description('check a servers.yaml: every problem at once, with its position')
    .argument('[file]')
    .option('-c, --config <file>')
    .option('--json', 'JSON instead of text')
    .action(action(async (file, options) => (await import('./configuration.ts')).validate(file, options)));

  program
    .command('example')
    .description('print a commented servers.yaml')
    .option('-o, --output <file>', 'write it there; never overwrites')
    .action(action(async (options) => (await import('./configuration.ts')).example(options)));

  withGateway(program.command('servers'))
    .description('the servers of the running gateway and their state')
    .action(action(async (options) => (await import('./remote.ts')).servers(options)));

  withGateway(program.command('tools'))
    .description('the tools of one server, or of all')
    .argument('[server]')
    .action(action(async (server, options) => (await import('./remote.ts')).tools(server, options)));

  withGateway(program.command('call'))
    .description('call a tool; starts its server when needed')
    .argument('<server>')
    .argument('<tool>')
    .argument('[json]', 'its arguments, a JSON object, or - to read it from standard input', '{}')
    .action(
      action(async (server, tool, json, options) =>
        (await import('./remote.ts')).call(server, tool, json, options),
      ),
    );

  withGateway(program.command('logs'))
    .description('the output of a server')
    .argument('<server>')
    .option('-f, --follow', 'keep printing')
    .option('-n, --tail <lines>', 'lines from the end', positiveInteger, 100)
    .action(action(async (server, options) => (await import('./remote.ts')).logs(server, options)));

  withConfig(program.command('doctor'))
    .description('what is wrong on this machine, and how to mend it')
    .option('--json', 'JSON instead of text')
    .action(action(async (options) => (await import('./doctor.ts')).doctor(options)));

  try {
    await program.parseAsync(argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    return report(error, argv.includes('--json'));
  }
}

/** Prints an error with its next step, as JSON too where that was asked for; wrong configuration is 2, everything else 1. */
function report(thrown: unknown, isJson: boolean): ExitCode {
  const error = asGatewayError(thrown);
  if (isJson) {
    const { code, message, hint, data } = error;
    process.stdout.write(`${JSON.stringify({ error: { code, message, hint, ...data } }, null, 2)}\n`);
  }
  process.stderr.write(`error: ${error.message}\n`);
  if (error.hint) process.stderr.write(`hint: ${error.hint}\n`);
  if (error.code === 'internal' && error.cause instanceof Error)
    process.stderr.write(`${error.cause.stack}\n`);
  return error.code === 'config_invalid' || error.code === 'unauthenticated_bind' ? 2 : 1;
}
