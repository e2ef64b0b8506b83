// A real identity provider for the tests: oidc-provider over TLS, with a page for signing in, and keys that can be changed.
// Its configuration is the JSON in PROVIDER; each line on standard input makes a new signing key, the old one goes.
import { createServer } from 'node:https';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider from 'oidc-provider';

const { issuer, port, certificate, key, client, people, narrow } = JSON.parse(process.env.PROVIDER);

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

const page = (uid, hidden) => `<!doctype html><title>Provider</title><form method="post" action="/interaction/${uid}">
<input name="login" aria-label="Login"><input type="hidden" name="prompt" value="${hidden}"><button>Continue</button></form>`;

async function readForm(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return new URLSearchParams(Buffer.concat(parts).toString());
}

async function interact(provider, request, response) {
  const { uid, prompt, params } = await provider.interactionDetails(request, response);
  if (request.method === 'GET') {
    response.setHeader('content-type', 'text/html');
    response.end(page(uid, prompt.name));
    return;
  }
  const form = await readForm(request);
  if (form.get('login') === 'refuse') {
    await provider.interactionFinished(request, response, { error: 'access_denied', error_description: '<script>alert(1)</script>' });
    return;
  }
  const login = form.get('login');
  const grant = new provider.Grant({ accountId: login, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const { acr, amr } = people[login] ?? {};
  await provider.interactionFinished(request, response, {
    login: { accountId: login, acr, amr }, consent: { grantId: await grant.save() },
  });
}

let current;
function renew() {
  const provider = new Provider(issuer, {
    clients: [{ grant_types: ['authorization_code'], response_types: ['code'], ...client }],
    jwks: { keys: [newKey()] },
    cookies: { keys: ['test'] },
    pkce: { required: () => true },
    conformIdTokenClaims: narrow,
    claims: { openid: ['sub', 'acr', 'amr'], email: ['email', 'email_verified'], groups: ['groups'] },
    scopes: ['openid', 'email', 'groups'],
    acrValues: ['gold'],
    features: { devInteractions: { enabled: false }, backchannelLogout: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    fetch: (url, { dispatcher, ...options }) => fetch(url, options), // its own dispatcher refuses addresses of this machine
    findAccount: (ctx, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
  });
  const serve = provider.callback();
  current = (request, response) => {
    if (request.url.startsWith('/interaction/')) interact(provider, request, response).catch((error) => response.writeHead(500).end(error.message));
    else serve(request, response);
  };
}

renew();
createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => current(request, response))
  .listen(port, '127.0.0.1', () => console.log('ready'));
createInterface({ input: process.stdin }).on('line', () => {
  renew();
  console.log('renewed');
}).on('close', () => process.exit());
