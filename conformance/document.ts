import { markdownTable, type Result } from './report.ts';

/** Why a check fails, or is only warned of, behind a legacy server; by the scenario that has it. */
const reasons: Record<string, string> = {
  'input-required-result-basic-list-roots':
    'A shared instance is never told that its client has roots: it could ask for them at any time and open one client’s folders to another. Roots need `isolation: session`.',
  'input-required-result-multiple-input-requests':
    'It asks for roots among others, see `input-required-result-basic-list-roots`.',
};

const scenarioOf = (check: string) => check.slice(0, check.indexOf(':'));

/** What every server must have, without its extensions. */
const isCore = ({ suite }: Result) => !suite.endsWith('extension');

/** The checks of a result that nothing here explains. */
export function unexplained(result: Result): string[] {
  const { failures, warnings } = result;
  return isCore(result) ? [...failures, ...warnings].filter((check) => !(scenarioOf(check) in reasons)) : [];
}

/** docs/conformance.md. */
export function conformanceDocument(results: Result[]): string {
  const checks = results.filter(isCore).flatMap(({ failures, warnings }) => [...failures, ...warnings]);
  const scenarios = [...new Set(checks.map(scenarioOf))];
  const explained = scenarios.map((scenario) => `- \`${scenario}\`: ${reasons[scenario] ?? 'not explained'}`);
  const remaining =
    explained.length === 0
      ? 'Nothing fails through the gateway.'
      : `What fails through the gateway, all of it with a modern client in front of a shared legacy server:

${explained.join('\n')}`;

  return `# Conformance

<!-- Generated from conformance/results.json by \`npm run generate\`. -->

\`npm run conformance\` runs the public suite, [\`@modelcontextprotocol/conformance\`](https://github.com/modelcontextprotocol/conformance), in its
stable and its newest release, against one server: directly over HTTP, and through a real gateway at \`/{server}/mcp\`, where the server runs
in a container and is spoken to over stdio, once in the legacy era and once in the modern one. It needs a Docker Engine. It writes
\`conformance/results.json\` and exits with 1 when a check that passes directly fails through the gateway or is only warned of, or when
a count is below its goal. CI runs the same and holds this page to it.

Checks passed / failed, counted as the suite counts them; nothing is left out, and nothing is marked as expected to fail:

${markdownTable(results)}

${remaining}

The tasks extension is optional for servers, which is why the suite runs its checks without scoring them. A legacy server does not have
it, and the gateway does not pretend that it does: its checks behind a legacy server are reported and held to nothing.

Through the gateway a few checks find nothing to look at, so fewer are counted: they concern event streams, and the gateway answers with
plain JSON where nothing but the result is to be sent; and it does not cut off a stream in the middle of a call.

Two things behind the legacy server are for the suite's sake. It leaves many of the server's questions unanswered, and a legacy server waits
for each answer, so \`timeouts.client\` is 250 ms. And it answers some questions by their name, which questions of that era do not have, so
the server gives it in \`_meta["mcp-gateway/input-key"]\`.
`;
}
