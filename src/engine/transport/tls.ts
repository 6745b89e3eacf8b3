import { isIP } from "node:net";
import { createSecureContext, type SecureContext } from "node:tls";

import { canonicalAddress } from "./sources.ts";

/** How one TLS listener shows itself, and whom it believes. All texts are PEM. */
export interface TlsOptions {
  /** Our certificate with the chain below it. */
  readonly certificate: string;
  readonly key: string;
  /** Who signs the certificates of peers; the well-known authorities that come with Node when left out. */
  readonly authorities?: string | undefined;
  /** Whether whoever connects to us has to show a certificate that one of the authorities signed. */
  readonly requireClientCertificate?: boolean | undefined;
  /** Whether the certificate of a server that we connect to has to be good and to name the domain asked for. Default true. */
  readonly verifyServers?: boolean | undefined;
}

/** RFC 8996: nothing below. */
export const oldestTls = "TLSv1.2";

/** Throws what OpenSSL says where certificate and key cannot be used. */
export function secureContext({ certificate, key, authorities }: TlsOptions): SecureContext {
  return createSecureContext({
    cert: certificate,
    key,
    minVersion: oldestTls,
    ...(authorities === undefined ? {} : { ca: authorities }),
  });
}

/** What a certificate says of its owner, in the form Node gives it. */
export interface CertificateNames {
  /** Such as `DNS:example.org, URI:sip:example.org, IP Address:192.0.2.1`. */
  readonly subjectaltname?: string | undefined;
  readonly subject?: { readonly CN?: string | string[] | undefined } | undefined;
}

/**
 * RFC 5922 §7: whether the certificate belongs to the SIP domain that a request was meant for, which is the host of its
 * URI and not the name that DNS gave for it. A host that is an IP address has to be named as such.
 */
export function namesDomain(certificate: CertificateNames, domain: string): boolean {
  const wanted = canonicalName(domain);
  const { subjectaltname } = certificate;
  if (isIP(wanted) !== 0) {
    return alternativeNames(subjectaltname ?? "").some(
      ({ kind, value }) => kind === "IP Address" && canonicalAddress(value) === canonicalAddress(wanted),
    );
  }
  // RFC 5922 §7.2: names are compared as a whole; a wildcard matches nothing but itself.
  return sipIdentities(certificate).some((identity) => canonicalName(identity) === wanted);
}

/** RFC 5922 §7.1: the SIP domains a certificate stands for. */
function sipIdentities({ subjectaltname, subject }: CertificateNames): readonly string[] {
  if (subjectaltname === undefined || subjectaltname === "") {
    // RFC 5922 §7.1 rule 2: the common name counts only where there are no alternative names at all.
    const name = subject?.CN;
    return name === undefined ? [] : [name].flat();
  }
  const names = alternativeNames(subjectaltname);
  const uris = names.flatMap(({ kind, value }) => (kind === "URI" ? (domainOfUri(value) ?? []) : []));
  // RFC 5922 §7.1: a DNS name is an identity only where no SIP URI is one.
  return uris.length > 0 ? uris : names.flatMap(({ kind, value }) => (kind === "DNS" ? value : []));
}

/** RFC 5922 §7.1: a `sip` URI counts when it has no user part. */
function domainOfUri(uri: string): string | undefined {
  const match = /^sip:([^@;?]+?)(?::\d+)?(?:[;?].*)?$/i.exec(uri);
  return uri.includes("@") ? undefined : match?.[1];
}

interface AlternativeName {
  readonly kind: string;
  readonly value: string;
}

/** Node joins the names with commas, and writes a value that holds a comma, a quote or a control as a JSON string. */
function alternativeNames(text: string): AlternativeName[] {
  const names: AlternativeName[] = [];
  for (const [, kind = "", quoted, plain = ""] of text.matchAll(
    /([A-Za-z ]+):(?:("(?:[^"\\]|\\.)*")|([^,"]*))(?:, |$)/gy,
  )) {
    names.push({ kind: kind.trim(), value: quoted === undefined ? plain : readQuoted(quoted) });
  }
  return names;
}

function readQuoted(quoted: string): string {
  try {
    return String(JSON.parse(quoted));
  } catch {
    return "";
  }
}

function canonicalName(name: string): string {
  return name.toLowerCase().replace(/\.$/, "");
}
