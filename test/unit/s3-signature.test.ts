// The witness of the upload tests is itself held against the examples of Amazon's documentation ("Signature Calculations for
// the Authorization Header: Transferring Payload in a Single Chunk").
import { expect, test } from "vitest";
import { s3Signature, sha256 } from "../support/s3-signature.ts";

const common = {
  time: "20130524T000000Z",
  region: "us-east-1",
  secretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
const host = "examplebucket.s3.amazonaws.com";

test("signs Amazon's example of a GET as Amazon does", () => {
  const signature = s3Signature({
    ...common,
    method: "GET",
    target: "/test.txt",
    headers: { host, range: "bytes=0-9", "x-amz-content-sha256": sha256(""), "x-amz-date": common.time },
    signedHeaders: ["host", "range", "x-amz-content-sha256", "x-amz-date"],
  });
  expect(signature).toBe("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
});

test("signs Amazon's example of a PUT as Amazon does", () => {
  const signature = s3Signature({
    ...common,
    method: "PUT",
    target: "/test%24file.text",
    headers: {
      date: "Fri, 24 May 2013 00:00:00 GMT",
      host,
      "x-amz-content-sha256": sha256("Welcome to Amazon S3."),
      "x-amz-date": common.time,
      "x-amz-storage-class": "REDUCED_REDUNDANCY",
    },
    signedHeaders: ["date", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-storage-class"],
  });
  expect(signature).toBe("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
});
