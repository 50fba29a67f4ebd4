// @ts-check
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { z } from 'zod';
import { Context7, Context7Error } from './api.js';

const { env } = process;
const api = new Context7({
  baseUrl: env.CONTEXT7_BASE_URL || 'https://context7.com/api',
  apiKey: (env.CONTEXT7_API_KEY ?? '').trim(),
  timeoutMs: Number(env.CONTEXT7_TIMEOUT_MS) || 30_000,
});

if (env.HTTPS_PROXY || env.https_proxy || env.HTTP_PROXY || env.http_proxy) {
  // Node from 24.14 on; older ones reach Context7 directly.
  const { setGlobalProxyFromEnv } = await import('node:http');
  setGlobalProxyFromEnv?.();
}

const server = new McpServer(
  { name: 'context7', title: 'Context7', version: '1.0.0' },
  {
    instructions:
      'Current documentation of programming libraries, frameworks, SDKs, APIs and tools, from Context7. ' +
      'Use it before you write code against a library whose current interface you are not sure of.',
  },
);

const library = z
  .string()
  .trim()
  .min(1)
  .describe(
    'A name such as "next.js", or an exact Context7 id such as "/vercel/next.js" or "/vercel/next.js/v15.1.8" for one version',
  );
const annotations = { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: true };

/**
 * @param {string} text
 * @param {boolean} [isError]
 */
const textResult = (text, isError = false) => ({
  content: [{ type: /** @type {const} */ ('text'), text }],
  ...(isError && { isError }),
});

/**
 * Runs a tool; what Context7 refuses becomes a result that names the cause and the next step.
 * @param {() => Promise<string>} run
 */
async function answered(run) {
  try {
    return textResult(await run());
  } catch (error) {
    if (!(error instanceof Context7Error)) throw error;
    process.stderr.write(`${error.message}\n`);
    return textResult(`${error.message}\n${error.hint}`, true);
  }
}

/**
 * The id of the library that is meant, and other libraries that it could have been.
 * @param {string} name
 * @param {string} query
 * @param {AbortSignal} signal
 */
async function resolve(name, query, signal) {
  if (name.startsWith('/')) return { id: name, others: [] };
  const [best, ...rest] = await api.searchLibraries(name, query, signal);
  if (!best) {
    throw new Context7Error(
      `Context7 knows no library called ${name}.`,
      'Check the spelling, or try the name of its package or repository.',
    );
  }
  return { id: best.id, others: rest.slice(0, 4).map((other) => other.id) };
}

/** @param {import('./api.js').CodeSnippet} snippet */
function showCode({ codeTitle, codeDescription, codeId, codeList = [] }) {
  const blocks = codeList.map(({ language, code }) => `\`\`\`${language ?? ''}\n${code ?? ''}\n\`\`\``);
  return [
    `### ${codeTitle ?? 'Example'}`,
    ...(codeId ? [`Source: ${codeId}`] : []),
    ...(codeDescription ? [codeDescription] : []),
    ...blocks,
  ].join('\n\n');
}

/** @param {import('./api.js').InfoSnippet} snippet */
function showInfo({ breadcrumb, pageId, content }) {
  return [
    ...(breadcrumb ? [`### ${breadcrumb}`] : []),
    ...(pageId ? [`Source: ${pageId}`] : []),
    content ?? '',
  ].join('\n\n');
}

/**
 * What was used, so that a wrong guess is seen and the next question is exact.
 * @param {string} id
 * @param {string[]} others
 */
const heading = (id, others) =>
  `# ${id}${others.length > 0 ? `\n\nOther libraries that match: ${others.join(', ')}` : ''}`;

const CHARACTERS_PER_TOKEN = 4;

/**
 * The sections that fit into `tokens`, at least one, and a note when some were left out.
 * @param {string[]} sections
 * @param {number} tokens
 */
function fit(sections, tokens) {
  const budget = tokens * CHARACTERS_PER_TOKEN;
  const kept = [];
  let used = 0;
  for (const section of sections) {
    if (kept.length > 0 && used + section.length > budget) break;
    kept.push(section.length > budget ? `${section.slice(0, budget)}\n[cut]` : section);
    used += section.length;
  }
  const left = sections.length - kept.length;
  return left > 0
    ? [...kept, `[${left} more sections left out; raise tokens or narrow the topic to see others]`]
    : kept;
}

server.registerTool(
  'get_documentation',
  {
    title: 'Get documentation',
    description:
      'Returns current documentation of a library, framework, SDK, API or command-line tool: explanations and examples ' +
      'that answer a question, each with its source. Use it for installation, configuration, usage, migration between versions and API details.',
    inputSchema: {
      library,
      topic: z
        .string()
        .trim()
        .optional()
        .describe(
          'What to look for, best as a whole question: "How do I protect a route with middleware?"; without it, an overview',
        ),
      tokens: z
        .number()
        .int()
        .min(500)
        .max(50_000)
        .default(10_000)
        .describe('Length of the answer at most, in tokens'),
    },
    annotations: { title: 'Get documentation', ...annotations },
  },
  ({ library: name, topic, tokens }, { signal }) =>
    answered(async () => {
      const query = topic || `Overview of ${name}: installation and first steps`;
      const { id, others } = await resolve(name, query, signal);
      const found = await api.documentation(id, query, signal);
      const sections = found.text ? [found.text] : [...found.info.map(showInfo), ...found.code.map(showCode)];
      if (sections.length === 0) {
        throw new Context7Error(
          `Context7 has nothing about this in ${found.libraryId}.`,
          'Ask in other words, or without a topic.',
        );
      }
      return [heading(found.libraryId, others), ...fit(sections, tokens)].join('\n\n');
    }),
);

server.registerTool(
  'search_code_examples',
  {
    title: 'Search code examples',
    description:
      'Returns code examples from the current documentation of a library that show how a task is done, each with its source.',
    inputSchema: {
      query: z
        .string()
        .trim()
        .min(1)
        .describe('The task, best as a whole sentence: "upload a file with progress"'),
      library: library
        .optional()
        .describe(`${library.description}; without it, the library that fits the task best`),
      language: z.string().trim().optional().describe('Examples in this programming language only: "python"'),
      limit: z.number().int().min(1).max(20).default(5).describe('Examples at most'),
    },
    annotations: { title: 'Search code examples', ...annotations },
  },
  ({ query, library: name, language, limit }, { signal }) =>
    answered(async () => {
      const question = language ? `${query} (${language})` : query;
      const { id, others } = await resolve(name || query, question, signal);
      const found = await api.documentation(id, question, signal);
      if (found.text) return `${heading(found.libraryId, others)}\n\n${fit([found.text], 10_000)[0]}`;
      const examples = language ? found.code.map((snippet) => only(snippet, language)) : found.code;
      const shown = examples.filter((snippet) => snippet.codeList?.length).slice(0, limit);
      if (shown.length === 0) {
        throw new Context7Error(
          `Context7 has no ${language ? `${language} ` : ''}example of this in ${found.libraryId}.`,
          'Ask in other words, without a language, or for another library.',
        );
      }
      return [heading(found.libraryId, others), ...shown.map(showCode)].join('\n\n');
    }),
);

const sameLanguage = new Map([
  ['js', 'javascript'],
  ['jsx', 'javascript'],
  ['ts', 'typescript'],
  ['tsx', 'typescript'],
  ['py', 'python'],
  ['rb', 'ruby'],
  ['rs', 'rust'],
  ['golang', 'go'],
  ['sh', 'bash'],
  ['shell', 'bash'],
  ['c#', 'csharp'],
  ['cs', 'csharp'],
  ['c++', 'cpp'],
]);

/** @param {string} [language] */
const canonical = (language = '') => sameLanguage.get(language.toLowerCase()) ?? language.toLowerCase();

/**
 * A snippet with its code in one language.
 * @param {import('./api.js').CodeSnippet} snippet
 * @param {string} language
 */
const only = (snippet, language) => ({
  ...snippet,
  codeList: (snippet.codeList ?? []).filter((code) => canonical(code.language) === canonical(language)),
});

// As a container's first process Node would not end on SIGTERM by itself; and a request under way must not outlive its client.
process.on('SIGTERM', () => process.exit(143));
process.stdin.on('end', () => process.exit(0));

await server.connect(new StdioServerTransport());
console.error('context7 is ready');
