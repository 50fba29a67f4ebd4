/**
 * Writes servers.schema.json and docs/configuration.md from the zod schemas, docs/conformance.md and the table of docs/protocol.md
 * from recorded results. `--check` writes nothing and fails when one of them is stale.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { z } from 'zod';
import { conformanceDocument } from '../conformance/document.ts';
import { readResults } from '../conformance/report.ts';
import { documentSchema, reservedNames, serverSchemas, withoutEffect } from '../src/config/schema.ts';
import { protocolDocument } from '../test/matrix/document.ts';

/** The parts of a JSON schema that are read here; `kind` is what our own schemas say of a value with a unit. */
interface Schema {
  [keyword: string]: unknown;
  kind?: string;
  type?: string | string[];
  pattern?: string;
  format?: string;
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  description?: string;
  properties?: Record<string, Schema>;
  propertyNames?: Schema;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  anyOf?: Schema[];
  required?: string[];
}

const described = z.toJSONSchema(documentSchema, { io: 'input', target: 'draft-7' }) as Schema;

const variable = String.raw`\$\{`;

/** The schema as editors take it: a variable may stand for any value that is not a name. */
function forEditors(schema: Schema): Schema {
  const { kind: _, ...rest } = schema;
  const result: Schema = { ...rest };
  if (isPlainObject(result.default) && Object.keys(result.default).length === 0) delete result.default;
  if (schema.properties) result.properties = mapValues(schema.properties, forEditors);
  if (typeof schema.additionalProperties === 'object') {
    result.additionalProperties = forEditors(schema.additionalProperties);
  }
  if (schema.items) result.items = forEditors(schema.items);
  if (schema.anyOf) result.anyOf = schema.anyOf.map(forEditors);
  // zod's bound of safe integers says nothing to a reader.
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete result.maximum;
  if (schema.format === 'uri') {
    delete result.format;
    result.pattern = '^https?://';
  }
  if (result.pattern) result.pattern = `${result.pattern}|${variable}`;
  const isName = schema.const !== undefined;
  const types = [schema.type].flat();
  if (isName || types.includes('string')) {
    if (!schema.enum) return result;
  } else if (!types.some((type) => type === 'integer' || type === 'number' || type === 'boolean'))
    return result;
  const { description, default: standard, ...constraint } = result;
  return {
    ...(description === undefined ? {} : { description }),
    ...(standard === undefined ? {} : { default: standard }),
    anyOf: [constraint, { $ref: '#/definitions/variable' }],
  };
}

function editorSchema(): Schema {
  const { $schema, ...schema } = forEditors(described);
  const { servers } = schema.properties as { servers: Schema };
  const entries = servers.additionalProperties as Schema;
  for (const entry of entries.anyOf!) {
    if (entry.properties && 'image' in entry.properties)
      entry.anyOf = [{ required: ['image'] }, { required: ['build'] }];
  }
  return {
    $schema,
    title: 'servers.yaml of MCP Gateway',
    ...schema,
    properties: {
      ...schema.properties,
      servers: {
        ...servers,
        propertyNames: { pattern: namePattern(), not: { enum: reservedNames } },
      },
    },
    patternProperties: { '^x-': {} },
    definitions: {
      variable: {
        type: 'string',
        pattern: variable,
        description: '${NAME}, ${NAME:-default} or ${file:path}',
      },
    },
  };
}

function namePattern(): string {
  return described.properties!.servers!.propertyNames!.pattern!;
}

function reference(): string {
  const servers = (described.properties!.servers!.additionalProperties as Schema).anyOf!;
  const byType = new Map(servers.map((schema) => [String(schema.properties!.type!.const), schema]));
  const docker = byType.get('docker')!;
  const template = byType.get('template')!;
  const process = byType.get('process')!;
  const http = byType.get('http')!;
  const own = (schema: Schema, isOwn: (key: string) => boolean): Schema => ({
    ...schema,
    properties: Object.fromEntries(Object.entries(schema.properties!).filter(([key]) => isOwn(key))),
  });
  const all = [...byType.values()];
  const defaultKeys = Object.keys(described.properties!.defaults!.properties!);
  const isCommon = (key: string) =>
    defaultKeys.includes(key) && all.every(({ properties }) => key in properties!);
  const isContainer = (key: string) => defaultKeys.includes(key) && !isCommon(key);
  const isOwn = (key: string) => !isCommon(key) && !isContainer(key);

  return `# Configuration

<!-- Generated from src/config/schema.ts by \`npm run generate\`. -->

A gateway reads one file: \`--config <file>\`, else \`--registry <file>\`, else the one that \`MCP_REGISTRY\` names, else
\`./servers.yaml\`, else \`~/.config/mcp-gateway/servers.yaml\`. It is YAML (anchors, aliases and merge keys included) or
JSON. \`mcp-gateway example\` prints one to begin with, \`mcp-gateway validate\` says everything that is wrong in one, each
with its line and column. A first line \`# yaml-language-server: $schema=./servers.schema.json\` gives editors the schema,
which the package and the checkout have as \`servers.schema.json\`.

\`\`\`yaml
gateway:  {} # the gateway itself
defaults: {} # merged into each server whose type knows the key: maps deep, the server's own wins
servers:     # the servers by name
  memory: { type: template, template: npm, config: { package: "@modelcontextprotocol/server-memory" } }
\`\`\`

Top-level keys that start with \`x-\` are free: a place for anchors.

**Durations** are \`300\`, \`300s\`, \`5m\`, \`1h\`, \`2d\` or \`500ms\`; plain numbers are seconds. **Sizes** are \`4096\`, \`512k\`,
\`512m\` or \`1g\`. **Relative paths** start at the folder of the file; \`~\` is the user's home.

**Variables**: \`\${NAME}\` is a variable of the environment or of \`.env\` beside the file (the environment wins),
\`\${NAME:-default}\` has a default for one that is unset or empty, \`\${file:path}\` is a file's text without its last line
break, and \`$\${\` is a plain \`\${\`. Inside \`{ }\` and \`[ ]\` they need quotes. A variable that is missing is an error of
\`validate\`; at \`start\` it stops its server alone. Those of disabled servers are not read. What came from a variable
never appears in a message.

A **flag** beats the **environment**, which beats the file: \`--host\` and \`GATEWAY_HOST\`, \`--port\` and \`GATEWAY_PORT\`,
\`--log-level\` and \`LOG_LEVEL\`, \`DEFAULT_IDLE_TIMEOUT\`, \`GATEWAY_STATE_DIR\`.

Keys marked \\* are taken and have no effect yet.

## \`gateway\`

${table(described.properties!.gateway!, 'gateway')}

## \`servers\`

A name has \`a\` to \`z\`, \`0\` to \`9\` and \`-\` (not first), and is none of ${reservedNames.join(', ')}.

### Every server

These may stand in \`defaults\` too.

${table(own(docker, isCommon), 'servers')}

### Every server in a container (\`docker\`, \`template\`)

These may stand in \`defaults\` too. Refused unless \`gateway.allow_unsafe\` is true: the engine's socket as a volume (or a
folder that holds it), \`network: host\`, \`cap_add: [ALL]\`. There is no \`privileged\`, \`pid\`, \`ipc\`, \`devices\` or \`ports\`.

${table(own(docker, isContainer), 'servers')}

### \`type: docker\`

\`image\`, \`build\` or both.

${table(own(docker, isOwn), 'servers')}

### \`type: template\`

${table(own(template, isOwn), 'servers')}

Servers of \`template: pypi\` are not started yet.

### \`type: process\`

${table(own(process, isOwn), 'servers')}

### \`type: http\`

Servers of this type are not started yet.

${table(own(http, isOwn), 'servers')}
`;
}

function table(schema: Schema, section: 'gateway' | 'servers'): string {
  const rows = [
    ['key', 'type', 'default', 'says'],
    ['---', '---', '---', '---'],
    ...rowsOf(schema, '', section),
  ];
  return rows
    .map((cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`)
    .join('\n');
}

function rowsOf(
  { properties = {}, required = [] }: Schema,
  prefix: string,
  section: 'gateway' | 'servers',
): string[][] {
  return Object.entries(properties).flatMap(([name, schema]) => {
    const key = `${prefix}${name}`;
    const isIdle = withoutEffect.some((entry) => entry.section === section && entry.key === key);
    const row = [
      `\`${key}\`${isIdle ? ' \\*' : ''}`,
      typeOf(schema),
      required.includes(name) ? 'required' : defaultOf(schema),
      schema.description ?? '',
    ];
    const nested = schema.properties ? schema : schema.anyOf?.find((option) => option.properties);
    return [row, ...(nested ? rowsOf(nested, `${key}.`, section) : [])];
  });
}

function typeOf(schema: Schema): string {
  if (schema.kind) return schema.kind;
  if (schema.const !== undefined) return `\`${schema.const}\``;
  if (schema.enum) return schema.enum.map((value) => `\`${value}\``).join(', ');
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(' or ');
  if (schema.items) return `list of ${plural(typeOf(schema.items))}`;
  if (schema.type === 'object') return 'map';
  const types = [schema.type].flat();
  return types.map((type) => (type === 'integer' ? 'whole number' : String(type))).join(' or ');
}

function plural(type: string): string {
  return /^[a-z]+$/.test(type) ? `${type}s` : type;
}

function defaultOf(schema: Schema): string {
  const isEmptyMap = isPlainObject(schema.default) && Object.keys(schema.default).length === 0;
  if (schema.default === undefined || isEmptyMap) return '';
  return `\`${typeof schema.default === 'string' ? schema.default : JSON.stringify(schema.default)}\``;
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function mapValues<T>(record: Record<string, T>, change: (value: T) => T): Record<string, T> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));
}

if (described.properties!.servers === undefined || Object.keys(serverSchemas).length !== 4) {
  throw new Error('The schema has changed its shape: scripts/generate.ts expects servers of four types.');
}

const outputs: Record<string, string> = {
  'servers.schema.json': `${JSON.stringify(editorSchema(), null, 2)}\n`,
  'docs/configuration.md': reference(),
  'docs/protocol.md': await protocolDocument(),
  'docs/conformance.md': conformanceDocument(await readResults()),
};
const isCheck = process.argv.includes('--check');
for (const [name, text] of Object.entries(outputs)) {
  const file = new URL(`../${name}`, import.meta.url);
  const current = await readFile(file, 'utf8').catch(() => undefined);
  if (current === text) continue;
  if (!isCheck) {
    await writeFile(file, text);
    console.log(`${name} written`);
  } else {
    console.error(`${name} is stale: run npm run generate and commit it`);
    process.exitCode = 1;
  }
}
