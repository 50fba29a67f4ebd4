/** Characters of one server's instructions, and of all of them together. */
const maxOne = 2_000;
const maxAll = 16_000;

/**
 * What the servers tell the model, each under a heading with its name; undefined when they say nothing. Bounded, because
 * clients put it into every conversation.
 */
export function instructionsOf(servers: { server: string; text: string | undefined }[]): string | undefined {
  const sections: string[] = [];
  let left = maxAll;
  for (const { server, text } of servers) {
    const trimmed = text?.trim();
    if (!trimmed) continue;
    const section = `## ${server}\n\n${cut(trimmed, maxOne)}`;
    if (section.length > left) break;
    left -= section.length;
    sections.push(section);
  }
  return sections.length === 0 ? undefined : sections.join('\n\n');
}

function cut(text: string, maxLength: number): string {
  return text.length <= maxLength ? text : `${text.slice(0, maxLength - 1).trimEnd()}…`;
}
