import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';

interface Block {
  type: string;
  tool_use_id?: string;
  content?: unknown;
}

interface ModelRequest {
  model: string;
  stream?: boolean;
  messages: { role: string; content: string | Block[] }[];
}

/** A stand-in for the Messages API: asks for one tool call, then repeats what the tool answered and ends the turn. */
export async function scriptedModel(tool: { name: string; input: object }) {
  const toolResults: Block[] = [];
  const server = createServer(async (request, response) => {
    if (!request.url?.startsWith('/v1/messages') || request.url.includes('count_tokens')) {
      response.writeHead(404).end('{}');
      return;
    }
    const body = (await json(request)) as ModelRequest;
    const results = body.messages
      .flatMap(({ content }) => (typeof content === 'string' ? [] : content))
      .filter(({ type }) => type === 'tool_result');
    if (results.length === 0) {
      answer(response, body, 'tool_use', {
        type: 'tool_use',
        id: 'toolu_01',
        name: tool.name,
        input: tool.input,
      });
      return;
    }
    toolResults.push(...results);
    answer(response, body, 'end_turn', {
      type: 'text',
      text: `The tool said: ${JSON.stringify(results[0]!.content)}`,
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** Every tool_result block that the client sent. */
    toolResults,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

type Content = { type: 'text'; text: string } | { type: 'tool_use'; id: string; name: string; input: object };

function answer(
  response: ServerResponse,
  { model, stream }: ModelRequest,
  stopReason: string,
  block: Content,
): void {
  const usage = { input_tokens: 1, output_tokens: 1 };
  const message = { id: 'msg_01', type: 'message', role: 'assistant', model, stop_sequence: null, usage };
  if (!stream) {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ ...message, content: [block], stop_reason: stopReason }));
    return;
  }
  const empty = block.type === 'text' ? { type: 'text', text: '' } : { ...block, input: {} };
  const delta =
    block.type === 'text'
      ? { type: 'text_delta', text: block.text }
      : { type: 'input_json_delta', partial_json: JSON.stringify(block.input) };
  response.setHeader('content-type', 'text/event-stream');
  for (const event of [
    { type: 'message_start', message: { ...message, content: [], stop_reason: null } },
    { type: 'content_block_start', index: 0, content_block: empty },
    { type: 'content_block_delta', index: 0, delta },
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason: stopReason, stop_sequence: null }, usage },
    { type: 'message_stop' },
  ]) {
    response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  }
  response.end();
}
