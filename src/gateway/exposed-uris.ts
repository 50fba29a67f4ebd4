import { isObject, type Params } from '../protocol/jsonrpc.ts';

/**
 * A result with the URIs that it gives out rewritten: of resource contents, and of links and embedded resources in the
 * content of tools and prompts. The same object when none of them changes.
 */
export function withExposedUris(result: Params, expose: (uri: string) => string): Params {
  let exposed = result;
  for (const field of ['content', 'contents', 'messages'] as const) {
    const items = exposed[field];
    if (!Array.isArray(items)) continue;
    const changed = withExposedItems(items, expose);
    if (changed !== items) exposed = { ...exposed, [field]: changed };
  }
  return exposed;
}

function withExposedItems(items: unknown[], expose: (uri: string) => string): unknown[] {
  let exposed = items;
  for (let index = 0; index < items.length; index += 1) {
    const item = withExposedUri(items[index], expose);
    if (item === items[index]) continue;
    if (exposed === items) exposed = [...items];
    exposed[index] = item;
  }
  return exposed;
}

/** One block of content, a message that holds some, or the contents of a resource. */
function withExposedUri(item: unknown, expose: (uri: string) => string): unknown {
  if (Array.isArray(item)) return withExposedItems(item, expose);
  if (!isObject(item)) return item;
  const { type, uri, resource, content } = item;
  if (typeof uri === 'string' && (type === undefined || type === 'resource_link')) {
    const exposed = expose(uri);
    return exposed === uri ? item : { ...item, uri: exposed };
  }
  if (type === 'resource' && resource !== undefined) {
    const exposed = withExposedUri(resource, expose);
    return exposed === resource ? item : { ...item, resource: exposed };
  }
  if (content !== undefined) {
    const exposed = withExposedUri(content, expose);
    return exposed === content ? item : { ...item, content: exposed };
  }
  return item;
}
