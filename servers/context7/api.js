// @ts-check
// Context7's public HTTP API (https://context7.com/docs/api-guide): find a library, get its documentation.

const DASHBOARD = 'https://context7.com/dashboard';

/** A request that failed: `message` says what happened, `hint` what to do about it. */
export class Context7Error extends Error {
  /**
   * @param {string} message
   * @param {string} hint
   * @param {ErrorOptions} [options]
   */
  constructor(message, hint, options) {
    super(message, options);
    this.hint = hint;
  }
}

/**
 * @typedef {{ id: string, title?: string, description?: string, totalSnippets?: number, versions?: string[] }} Library
 * @typedef {{ codeTitle?: string, codeDescription?: string, codeId?: string, codeTokens?: number,
 *             codeList?: { language?: string, code?: string }[] }} CodeSnippet
 * @typedef {{ breadcrumb?: string, pageId?: string, content?: string, contentTokens?: number }} InfoSnippet
 * @typedef {{ libraryId: string, text?: string, code: CodeSnippet[], info: InfoSnippet[] }} Documentation
 */

export class Context7 {
  #baseUrl;
  #apiKey;
  #timeoutMs;

  /** @param {{ baseUrl: string, apiKey: string, timeoutMs: number }} options */
  constructor({ baseUrl, apiKey, timeoutMs }) {
    this.#baseUrl = baseUrl.replace(/\/+$/, '');
    this.#apiKey = apiKey;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Libraries by name, the one that fits `query` best first.
   * @param {string} libraryName
   * @param {string} query
   * @param {AbortSignal} signal
   * @returns {Promise<Library[]>}
   */
  async searchLibraries(libraryName, query, signal) {
    const answer = await this.#get('/v2/libs/search', { libraryName, query }, libraryName, signal);
    const found = answer.json();
    const libraries = Array.isArray(found) ? found : found?.results;
    if (!Array.isArray(libraries)) throw answer.unexpected('a list of libraries');
    return libraries.filter((library) => typeof library?.id === 'string');
  }

  /**
   * Documentation of one library that answers `query`.
   * @param {string} libraryId `/owner/project`, optionally with `/version`
   * @param {string} query
   * @param {AbortSignal} signal
   * @returns {Promise<Documentation>}
   */
  async documentation(libraryId, query, signal) {
    const parameters = { libraryId, query, type: 'json' };
    let answer = await this.#get('/v2/context', parameters, libraryId, signal);
    if (answer.movedTo) {
      parameters.libraryId = answer.movedTo;
      answer = await this.#get('/v2/context', parameters, answer.movedTo, signal);
    }
    const found = { libraryId: parameters.libraryId, code: [], info: [] };
    if (/^text\/(plain|markdown)/.test(answer.type)) return { ...found, text: answer.body.trim() };
    const { codeSnippets, infoSnippets } = answer.json() ?? {};
    if (!Array.isArray(codeSnippets) && !Array.isArray(infoSnippets)) throw answer.unexpected('snippets');
    return { ...found, code: codeSnippets ?? [], info: infoSnippets ?? [] };
  }

  /**
   * @param {string} path
   * @param {Record<string, string>} parameters
   * @param {string} subject what was asked for, for messages
   * @param {AbortSignal} signal
   */
  async #get(path, parameters, subject, signal) {
    if (!/^https?:$/.test(URL.parse(this.#baseUrl)?.protocol ?? '')) {
      throw new Context7Error(
        `CONTEXT7_BASE_URL is no HTTP URL: ${this.#baseUrl}`,
        'Expected something like https://context7.com/api.',
      );
    }
    // fetch refuses such a key by an error that quotes it.
    if (/[^\x21-\x7e]/.test(this.#apiKey)) {
      throw new Context7Error(
        'CONTEXT7_API_KEY has characters that no key has.',
        `Copy it again from ${DASHBOARD}.`,
      );
    }
    const url = `${this.#baseUrl}${path}?${new URLSearchParams(parameters)}`;
    const deadline = AbortSignal.timeout(this.#timeoutMs);
    try {
      const response = await fetch(url, {
        headers: {
          accept: 'application/json',
          'user-agent': 'mcp-context7',
          ...(this.#apiKey && { authorization: `Bearer ${this.#apiKey}` }),
        },
        // A redirect is the API's way to say that a library has a new id; following another would take the key along.
        redirect: 'manual',
        signal: AbortSignal.any([signal, deadline]),
      });
      return this.#checked(response, await response.text(), subject);
    } catch (error) {
      if (signal.aborted || error instanceof Context7Error) throw error;
      if (deadline.aborted) {
        throw new Context7Error(
          `Context7 did not answer within ${this.#timeoutMs / 1000} s.`,
          'Try again; if it goes on, raise CONTEXT7_TIMEOUT_MS.',
          { cause: error },
        );
      }
      throw this.#unreachable(/** @type {Error} */ (error));
    }
  }

  /**
   * @param {Response} response
   * @param {string} body
   * @param {string} subject
   */
  #checked(response, body, subject) {
    const { status } = response;
    /** @type {any} */
    let parsed;
    try {
      parsed = JSON.parse(body);
    } catch {
      parsed = undefined;
    }
    const said = typeof parsed?.message === 'string' ? ` Context7 says: ${parsed.message.slice(0, 500)}` : '';
    if (status >= 300 && status < 400 && /^\/[^/]/.test(parsed?.redirectUrl ?? '')) {
      return new Answer(response, body, parsed, parsed.redirectUrl);
    }
    if (status === 202) {
      throw new Context7Error(
        `Context7 is still preparing the documentation of ${subject} (202).${said}`,
        'Try again in a few minutes, or choose another library.',
      );
    }
    if (!response.ok) throw this.#refused(response, subject, said);
    return new Answer(response, body, parsed, undefined);
  }

  /**
   * @param {Response} response
   * @param {string} subject
   * @param {string} said
   */
  #refused(response, subject, said) {
    const { status } = response;
    const key = this.#apiKey ? 'has' : 'has no';
    switch (status) {
      case 400:
      case 422:
        return new Context7Error(
          `Context7 cannot answer for ${subject} (${status}).${said}`,
          'Check the library’s name, or ask in other words.',
        );
      case 401:
        return this.#apiKey
          ? new Context7Error(
              `Context7 refused the API key (401).${said}`,
              `Check CONTEXT7_API_KEY: a key starts with ctx7sk and is made at ${DASHBOARD}.`,
            )
          : new Context7Error(
              `Context7 wants an API key (401).${said}`,
              `Make one at ${DASHBOARD} and set CONTEXT7_API_KEY.`,
            );
      case 402:
        return new Context7Error(
          `The spending limit of this Context7 account is reached (402).${said}`,
          `See ${DASHBOARD}.`,
        );
      case 403:
        return new Context7Error(
          `Context7 does not allow access to ${subject} (403).${said}`,
          `Check that the account of CONTEXT7_API_KEY may read it: ${DASHBOARD}.`,
        );
      case 404:
        return new Context7Error(
          `Context7 has no documentation of ${subject} (404).${said}`,
          'Check the spelling, leave out the version, or give the library’s name in place of its id.',
        );
      case 429: {
        const wait = retryAfterSeconds(response.headers.get('retry-after'));
        const when = wait === undefined ? 'Wait a minute' : `Wait ${wait} s`;
        return new Context7Error(
          `Context7’s rate limit is reached (429); this server ${key} API key.${said}`,
          `${when}, then try again. ${this.#apiKey ? `Limits: ${DASHBOARD}.` : `With a free key from ${DASHBOARD} in CONTEXT7_API_KEY the limit is higher.`}`,
        );
      }
      default:
        if (status >= 500) {
          const wait = retryAfterSeconds(response.headers.get('retry-after'));
          return new Context7Error(
            `Context7 failed (${status}).${said}`,
            `Nothing is wrong with the question; try again in ${wait === undefined ? 'a minute' : `${wait} s`}.`,
          );
        }
        return new Context7Error(
          `Context7 answered with status ${status}, which was not expected.${said}`,
          `Check CONTEXT7_BASE_URL (${this.#baseUrl}).`,
        );
    }
  }

  /** @param {Error} error */
  #unreachable(error) {
    const cause = /** @type {any} */ (error.cause) ?? error;
    const code = cause.code ?? cause.message;
    const { host } = new URL(this.#baseUrl);
    if (/CERT|SIGNATURE|SSL|TLS/i.test(code)) {
      return new Context7Error(
        `The certificate of ${host} cannot be verified (${code}).`,
        'Behind a proxy that opens TLS, give its certificate: gateway.ca_certificates, or NODE_EXTRA_CA_CERTS.',
        { cause: error },
      );
    }
    return new Context7Error(
      `Cannot reach Context7 at ${host} (${code}).`,
      'Check that this server has a network (not `network: none`), that names resolve there, and that a proxy, where one is needed, is set.',
      { cause: error },
    );
  }
}

/** A successful answer, its JSON read on demand. */
class Answer {
  #json;

  /**
   * @param {Response} response
   * @param {string} body
   * @param {any} json undefined when the body is no JSON
   * @param {string | undefined} movedTo the library's new id
   */
  constructor(response, body, json, movedTo) {
    this.url = response.url;
    this.type = response.headers.get('content-type') ?? 'no content type';
    this.body = body;
    this.movedTo = movedTo;
    this.#json = json;
  }

  json() {
    if (this.#json === undefined) throw this.unexpected('JSON');
    return this.#json;
  }

  /** @param {string} expected */
  unexpected(expected) {
    const start = this.body.trim().slice(0, 80).replace(/\s+/g, ' ');
    return new Context7Error(
      `Expected ${expected} from ${new URL(this.url).host}, got ${this.type}: ${start || 'an empty body'}`,
      'Something else than Context7’s API answered, or the API has changed. Check CONTEXT7_BASE_URL and the proxy, then try again.',
    );
  }
}

/**
 * Retry-After in seconds, from seconds or an HTTP date (RFC 9110, 10.2.3).
 * @param {string | null} value
 */
function retryAfterSeconds(value) {
  if (!value) return undefined;
  if (/^\d+$/.test(value.trim())) return Number(value);
  const at = Date.parse(value);
  return Number.isNaN(at) ? undefined : Math.max(0, Math.ceil((at - Date.now()) / 1000));
}
