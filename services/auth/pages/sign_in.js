const API = "/api/v1";
const SENTENCES = {
  "sign-in-refused": "That was not right. Try again, with the next code where you use codes.",
  "slow-down": "Too many failed attempts; wait a moment.",
  "factor-too-old": "This needs a sign-in of the last 5 minutes. You are signed out: sign in once more, then do it again.",
  "wrong-code": "This code is not right. Wait for the next one.",
  "link-not-open": "This link was used, is too old, or is not known.",
  "invitation-not-open": "This invitation was used, is too old, or is not known.",
  "session-ended": "Your session has ended: nobody is signed in here any more.",
  "refresh-token-invalid": "Nobody is signed in here any more.",
};
const OVER = new Set(["session-ended", "account-not-active", "refresh-token-invalid", "refresh-token-reused"]);
const byId = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const arrived = new URLSearchParams(location.hash.slice(1));
const linkToken = location.hash.slice(1);
history.replaceState(null, "", location.pathname + location.search);
let signedIn = null;
let passwordAlone = false;
let facts = null;
let fresh = asked.has("fresh");

function say(sentence) {
  byId("message").textContent = sentence;
}

function reveal(section) {
  for (const each of document.querySelectorAll("main > section")) each.hidden = each.id !== section;
  byId(section).querySelector("input:not([type=radio]), button")?.focus();
}

function show(section) {
  for (const form of document.forms) {
    form.reset();
    form.querySelector("input[type=radio]:checked")?.dispatchEvent(new Event("change"));
  }
  reveal(section);
}

async function ask(method, path, body, token) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  if (facts) headers["Hortus-After"] = facts;
  const answer = await fetch(API + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  facts = answer.headers.get("Hortus-Facts") ?? facts;
  const content = answer.status === 204 ? null : await answer.json();
  if (answer.ok) return { content, headers: answer.headers };
  const slug = String(content.type ?? "").split(":").pop();
  throw Object.assign(new Error(SENTENCES[slug] ?? content.title ?? "Something went wrong."), { slug, content });
}

async function call(method, path, body) {
  try {
    return await ask(method, path, body, signedIn?.access_token);
  } catch (error) {
    if (!signedIn || error.slug !== "invalid-credential") throw error;
    await renew();
    return ask(method, path, body, signedIn.access_token);
  }
}

async function renew() {
  const before = signedIn.session_id;
  signedIn = (await ask("POST", "/sessions/refresh")).content;
  if (signedIn.session_id === before) return;
  // Another window signed in: what this one was asked to do was meant for the session before, perhaps another person's.
  welcome(signedIn);
  throw new Error(`Meanwhile ${signedIn.user.username} signed in in this browser. Nothing was done.`);
}

const toBytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

function requestOptions(options) {
  if (PublicKeyCredential.parseRequestOptionsFromJSON) return PublicKeyCredential.parseRequestOptionsFromJSON(options);
  const allowed = (options.allowCredentials ?? []).map((each) => ({ ...each, id: toBytes(each.id) }));
  return { ...options, challenge: toBytes(options.challenge), allowCredentials: allowed };
}

function creationOptions(options) {
  if (PublicKeyCredential.parseCreationOptionsFromJSON) return PublicKeyCredential.parseCreationOptionsFromJSON(options);
  const excluded = (options.excludeCredentials ?? []).map((each) => ({ ...each, id: toBytes(each.id) }));
  const user = { ...options.user, id: toBytes(options.user.id) };
  return { ...options, challenge: toBytes(options.challenge), user, excludeCredentials: excluded };
}

function credentialAsJson(credential) {
  if (credential.toJSON) return credential.toJSON();
  const response = {};
  for (const name of ["clientDataJSON", "authenticatorData", "signature", "userHandle", "attestationObject"]) {
    if (credential.response[name]) response[name] = toText(credential.response[name]);
  }
  return { id: credential.id, rawId: toText(credential.rawId), type: credential.type, response, clientExtensionResults: {} };
}

async function withPasskey(work) {
  if (!window.PublicKeyCredential) throw new Error("This browser knows no passkeys.");
  try {
    return credentialAsJson(await work());
  } catch (error) {
    throw new Error(error.name === "InvalidStateError" ? "This device holds a passkey of yours already." : "No passkey was shown.");
  }
}

async function passkey() {
  const { challenge, options } = (await call("POST", "/passkey-challenges", {})).content;
  return { challenge, credential: await withPasskey(() => navigator.credentials.get({ publicKey: requestOptions(options) })) };
}

async function newPasskey({ challenge, options }, name) {
  const credential = await withPasskey(() => navigator.credentials.create({ publicKey: creationOptions(options) }));
  return { challenge, credential, name };
}

async function factorIn(form) {
  const kind = form.elements.factor.value;
  if (kind === "passkey") return { passkey: await passkey() };
  const shown = form.querySelector(".shown").value.trim();
  return shown ? { [kind]: kind === "code" ? shown.replaceAll(" ", "") : shown } : {};
}

for (const form of [byId("password-form"), byId("pending-form")]) {
  for (const radio of form.querySelectorAll("input[type=radio]")) {
    radio.addEventListener("change", () => {
      const field = form.querySelector(".shown");
      const label = form.querySelector(".shown-label");
      field.hidden = label.hidden = radio.value === "passkey";
      field.inputMode = radio.value === "code" ? "numeric" : "text";
      label.textContent = radio.value === "code" ? "One-time code" : "Recovery code";
    });
  }
}

const sentence = (error) => (error instanceof TypeError ? "Hortus does not answer." : error.message);

async function attempt(work) {
  const buttons = [...document.querySelectorAll("button")].filter((button) => !button.disabled);
  for (const button of buttons) button.disabled = true;
  say("");
  try {
    await work();
  } catch (error) {
    await settle(error, work).catch((again) => say(sentence(again)));
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

async function settle(error, work) {
  if (error.slug === "factor-enrolment-needed" && error.content.enrolment) await enrol(error.content.enrolment);
  else if (error.slug === "factor-too-old" && passwordAlone) askForPassword(work);
  else if (error.slug === "factor-too-old") await beginAnew(error.message);
  else if (signedIn && OVER.has(error.slug)) await begin(error.message);
  else say(sentence(error));
}

const on = (id, event, work) =>
  byId(id).addEventListener(event, (happened) => {
    happened.preventDefault();
    attempt(work);
  });

function client() {
  if (!asked.has("client_port")) return null;
  const port = asked.get("client_port");
  const challenge = asked.get("challenge") ?? "";
  const state = asked.get("state") ?? "";
  const right = /^[1-9][0-9]{3,4}$/.test(port) && Number(port) >= 1024 && Number(port) <= 65535;
  if (!right || !/^[A-Za-z0-9_-]{43}$/.test(challenge) || !/^[A-Za-z0-9_-]{1,128}$/.test(state)) return undefined;
  return { port: Number(port), challenge, state };
}

const place = () => (client() ? "client" : "done");

function welcome(view) {
  signedIn = view;
  passwordAlone = false;
  byId(`${place()}-user`).textContent = view.user.username;
  show(place());
}

async function signIn(body) {
  welcome((await call("POST", "/sessions", body)).content);
}

async function endSession() {
  try {
    const { headers } = await call("DELETE", `/sessions/${signedIn.session_id}`);
    return { there: headers.get("Hortus-Logout"), said: "You are signed out." };
  } catch (error) {
    if (error instanceof TypeError) throw new Error("It is not known whether you are signed out: Hortus does not answer.");
    if (error.slug !== "not-found" && !OVER.has(error.slug)) throw new Error(`Nobody was signed out. ${sentence(error)}`);
    return { there: null, said: SENTENCES["session-ended"] };
  }
}

async function signOut() {
  const { there, said } = await endSession();
  await begin(said);
  if (there?.startsWith("https://")) location.assign(there);
}

let waiting = null;

function askForPassword(work) {
  waiting = work;
  reveal("step-up");
}

let enrolment = null;

async function enrol(token, password) {
  const shown = password ? { token, password } : { token };
  confirmedAt(token, "/factor-enrolments/confirmation", (await call("POST", "/factor-enrolments/acceptance", shown)).content);
}

function confirmedAt(token, door, given) {
  enrolment = { token, door, ...given };
  const drawing = new DOMParser().parseFromString(given.totp_svg, "image/svg+xml").documentElement;
  byId("qr").replaceChildren(document.adoptNode(drawing));
  byId("secret").textContent = given.totp_secret;
  byId("authenticator").hidden = given.policy === "passkey";
  byId("enrolment-passkey").hidden = !given.passkey;
  show("enrolment");
}

async function enrolled(shown, sentence) {
  await call("POST", enrolment.door, { token: enrolment.token, ...shown });
  byId("qr").replaceChildren();
  byId("secret").textContent = "";
  show(arrived.has("enrolment") ? "pending" : "sign-in");
  say(sentence);
}

on("password-form", "submit", async () => {
  const factor = await factorIn(byId("password-form"));
  await signIn({ username: byId("username").value, password: byId("password").value, ...factor });
  passwordAlone = Object.keys(factor).length === 0;
});
on("passkey", "click", async () => signIn({ passkey: await passkey() }));
on("pending-form", "submit", async () => signIn({ pending: true, ...(await factorIn(byId("pending-form"))) }));
on("enrolment-form", "submit", async () => {
  const code = byId("enrolment-code").value.replaceAll(" ", "");
  await enrolled({ code }, "Your second factor is set up. Sign in with the next code that it shows.");
});
on("enrolment-passkey", "click", async () => {
  await enrolled({ passkey: await newPasskey(enrolment.passkey, "passkey") }, "Your passkey is set up. Sign in with it.");
});
on("first-factor-form", "submit", async () => enrol(linkToken, byId("first-factor-password").value));
on("new-password-form", "submit", async () => {
  const password = byId("new-password").value;
  if (password !== byId("new-password-again").value) throw new Error("The two passwords differ.");
  const token = linkToken;
  if (asked.get("link") === "setup") {
    confirmedAt(token, "/invitations/confirmation", (await call("POST", "/invitations/acceptance", { token, password })).content);
  } else {
    await call("POST", "/password-resets/acceptance", { token, password });
    show("sign-in");
    say("Your new password counts. Sign in with it.");
  }
});
on("client-yes", "click", async () => {
  const { port, challenge, state } = client();
  const { code } = (await call("POST", "/client-codes", { challenge })).content;
  location.replace(`http://127.0.0.1:${port}/?${new URLSearchParams({ code, state })}`);
});
on("client-no", "click", async () => {
  const { port, state } = client();
  await endSession();
  location.replace(`http://127.0.0.1:${port}/?${new URLSearchParams({ error: "access_denied", state })}`);
});
on("new-passkey-form", "submit", async () => {
  const field = byId("new-passkey-name");
  const given = (await call("POST", "/users/me/passkeys/options", {})).content;
  const { name } = (await call("POST", "/users/me/passkeys", await newPasskey(given, field.value))).content;
  field.value = "";
  passwordAlone = false;
  say(`The passkey “${name}” counts from now on.`);
});
on("sign-out", "click", signOut);
on("step-up-form", "submit", async () => {
  const password = byId("step-up-password").value;
  byId("step-up-form").reset();
  await call("POST", "/sessions/current/factor", { password });
  reveal(place());
  await attempt(waiting);
});
on("step-up-no", "click", () => reveal(place()));

async function offerProviders() {
  const { items } = (await call("GET", "/oidc")).content;
  const query = new URLSearchParams({ to: location.pathname + location.search, ...(fresh && { fresh }) });
  const entries = items.map(({ name, title }) => {
    const link = Object.assign(document.createElement("a"), { textContent: title, href: `${API}/oidc/${name}/start?${query}` });
    const entry = document.createElement("li");
    entry.append(link);
    return entry;
  });
  byId("provider-list").replaceChildren(...entries);
  byId("providers").hidden = entries.length === 0;
}

async function begin(because) {
  signedIn = null;
  passwordAlone = false;
  show("sign-in");
  await offerProviders().catch(() => say("Hortus does not answer."));
  if (because) say(because);
}

async function beginAnew(because) {
  await endSession();
  fresh = true;
  await begin(because);
}

if (client() === undefined) {
  say("This address was not made by the hortus command.");
} else if (asked.has("link") && linkToken && asked.get("link") === "factor-enrolment") {
  show("first-factor");
} else if (asked.has("link") && linkToken) {
  show("new-password-section");
} else if (arrived.has("signed-in")) {
  await attempt(async () => welcome((await call("POST", "/sessions/refresh")).content));
  if (!signedIn) await begin();
} else if (arrived.has("pending")) {
  show("pending");
} else if (arrived.has("enrolment")) {
  await attempt(() => enrol(arrived.get("enrolment")));
} else {
  await begin();
}
