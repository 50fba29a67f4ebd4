import { writeFile } from 'node:fs/promises';
import { GatewayError, systemCodeOf } from '../base/errors.ts';
import { exampleConfig } from '../config/example.ts';
import { ConfigError, loadConfig } from '../config/load.ts';
import type { ExitCode } from './program.ts';

/** `validate [file]`: every problem with its position, on stdout; 2 when there is one. */
export async function validate(
  file: string | undefined,
  options: { config?: string; json?: boolean },
): Promise<ExitCode> {
  const print = (line: string) => process.stdout.write(`${line}\n`);
  try {
    const config = await loadConfig({ file: file ?? options.config, mode: 'validate' });
    if (options.json) {
      print(
        JSON.stringify({ valid: true, file: config.file, problems: [], warnings: config.warnings }, null, 2),
      );
      return 0;
    }
    for (const warning of config.warnings) print(`warning: ${warning}`);
    const enabled = [...config.servers.values()].filter((server) => server.enabled).length;
    print(`${config.file} is valid: ${config.servers.size} servers, ${enabled} enabled`);
    return 0;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    if (options.json) {
      print(JSON.stringify({ valid: false, problems: error.problems, warnings: [] }, null, 2));
      return 2;
    }
    print(error.message);
    if (error.hint) print(`hint: ${error.hint}`);
    return 2;
  }
}

/** `example`: a servers.yaml to begin with. */
export async function example(options: { output?: string }): Promise<ExitCode> {
  if (options.output === undefined) {
    process.stdout.write(exampleConfig());
    return 0;
  }
  try {
    await writeFile(options.output, exampleConfig(), { flag: 'wx' });
  } catch (error) {
    const code = systemCodeOf(error);
    throw new GatewayError('config_invalid', `${options.output} cannot be written: ${code ?? error}.`, {
      hint:
        code === 'EEXIST'
          ? 'It is there already; name another file.'
          : 'Name a file in a folder that exists.',
      cause: error,
    });
  }
  process.stdout.write(`${options.output} written; try: mcp-gateway validate ${options.output}\n`);
  return 0;
}
