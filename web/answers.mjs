// SPDX-License-Identifier: Apache-2.0
// What the server's answers mean for marks: taken, refused for good, or to be tried again.

/** Not answered, or so that the same request may be taken later; `sentence` is the server's own, where it gave one. */
export class Unreachable extends Error {
  constructor(sentence = null, options = undefined) {
    super(sentence ?? "The server cannot be reached.", options);
    this.sentence = sentence;
  }
}

/** A refusal with the server's sentence; `current` is the round as it is now, where the server gave it. */
export class Refused extends Error {
  constructor(status, data) {
    super(data.error ?? `The server answered with status ${status}.`);
    this.status = status;
    this.current = data.current ?? null;
  }
}

const BY_STATUS = {
  401: "The server asks for a log-in: open its page in another tab, log in, and come back.",
  403: "The server, or a proxy before it, refused this page. Let the proxy pass the name on (nginx: proxy_set_header Host $http_host;).",
  413: "A proxy before the server found the marks too large. Let it take bodies of 64 KiB (nginx: client_max_body_size 64k;).",
};

/** The JSON of a good answer; throws Unreachable or Refused. `data` is undefined where the answer held no JSON. */
export function read(status, data) {
  const sentence = typeof data?.error === "string" ? data.error : null;
  if (status >= 200 && status < 300 && data !== undefined) return data;
  // Our own refusals say what is wrong with a request. All others, a proxy's and the host's, may be mended meanwhile.
  if (status >= 400 && status < 500 && sentence !== null && ![401, 403, 408, 429].includes(status)) throw new Refused(status, data);
  throw new Unreachable(sentence ?? BY_STATUS[status] ?? (status >= 400 ? `The server answered with status ${status}.` : null));
}
