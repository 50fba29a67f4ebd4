import { createHash } from 'node:crypto';

/** Characters that every client and model accepts in a name. */
const otherCharacters = /[^A-Za-z0-9_-]/gu;
const hashLength = 6;

/** What stands in front of a server's names: `""`, a prefix that ends in a separator of its own, or `<prefix>__`. */
export function joinedPrefix(prefix: string): string {
  return prefix === '' || /[_.-]$/.test(prefix) ? prefix : `${prefix}__`;
}

/** The name under which all servers' clients see `name`: prefixed, of `[A-Za-z0-9_-]` only, at most `maxLength` long. */
export function exposedName(prefix: string, name: string, maxLength: number): string {
  return fitted(joinedPrefix(prefix) + name, maxLength);
}

/** The beginning that every exposed name with this prefix shares, cut ones included. */
export function exposedBeginning(prefix: string, maxLength: number): string {
  return joinedPrefix(prefix)
    .replace(otherCharacters, '_')
    .slice(0, maxLength - hashLength - 1);
}

function fitted(name: string, maxLength: number): string {
  const mapped = name.replace(otherCharacters, '_');
  // Names in other scripts would all become underscores; the hash keeps them apart.
  const isTelling = !/[^\u0020-\u007e]/.test(name);
  return mapped.length <= maxLength && isTelling ? mapped : hashed(mapped, name, maxLength);
}

/** `name`, cut where it must be, with a short hash of `identity` that is the same in every run. */
function hashed(name: string, identity: string, maxLength: number): string {
  const digest = createHash('sha256').update(identity).digest().readUIntBE(0, 6);
  const hash = (digest % 36 ** hashLength).toString(36).padStart(hashLength, '0');
  return `${name.slice(0, maxLength - hashLength - 1)}_${hash}`;
}

/** One thing that needs a name of its own among all servers. */
export interface NameRequest {
  server: string;
  /** What its server calls it. */
  native: string;
  /** The name it gets unless another server has it. */
  wanted: string;
  /** The name it gets then. */
  fallback: string;
}

/** A decision that was taken before and stands as long as the same name is wanted. */
export interface NameClaim {
  wanted: string;
  exposed: string;
}

/** By server, then by native name. */
export type NameClaims = ReadonlyMap<string, ReadonlyMap<string, NameClaim>>;

/** The outcome for one request. */
export interface AssignedName {
  exposed: string;
  /** The server that has the wanted name, when this one does not; undefined when that server has gone since. */
  takenBy?: string;
}

/**
 * Gives each request a name that no other one has. Earlier decisions stand; among the rest the first asks first (the
 * order of the file). Servers that have claims but no requests are away: what they claimed stays theirs.
 */
export function assignNames(
  requests: readonly NameRequest[],
  claims: NameClaims,
  maxLength = Number.POSITIVE_INFINITY,
): AssignedName[] {
  const owners = new Map<string, string>();
  const present = new Set(requests.map(({ server }) => server));
  for (const [server, names] of claims) {
    if (!present.has(server)) for (const { exposed } of names.values()) owners.set(exposed, server);
  }

  const assigned: (AssignedName | undefined)[] = requests.map(({ server, native, wanted }) => {
    const claim = claims.get(server)?.get(native);
    if (claim?.wanted !== wanted || owners.has(claim.exposed)) return undefined;
    owners.set(claim.exposed, server);
    return { exposed: claim.exposed };
  });

  const names = requests.map((request, index) => {
    const name: AssignedName = assigned[index] ?? { exposed: firstFree(request, owners, maxLength) };
    owners.set(name.exposed, request.server);
    return name;
  });
  for (const [index, name] of names.entries()) {
    const { wanted } = requests[index]!;
    if (name.exposed !== wanted) name.takenBy = owners.get(wanted);
  }
  return names;
}

function firstFree(request: NameRequest, owners: ReadonlyMap<string, string>, maxLength: number): string {
  const { server, native, wanted, fallback } = request;
  if (!owners.has(wanted)) return wanted;
  if (!owners.has(fallback)) return fallback;
  for (let attempt = 0; ; attempt++) {
    const name = hashed(fallback, JSON.stringify([server, native, attempt]), maxLength);
    if (!owners.has(name)) return name;
  }
}
