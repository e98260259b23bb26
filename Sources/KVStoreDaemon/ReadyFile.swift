// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Node

/// Where the daemon listens, and what is spoken there. A value.
struct BoundAddress {
    let door: FrontDoor
    let address: StreamAddress
}

/// Tells scripts that the daemon serves, and where: a JSON file, written whole or not at all.
struct ReadyFile {
    let addresses: [BoundAddress]
    let nodeName: String

    /// `{"pid": 1, "node": "…", "addresses": ["unix:…", "tcp:…"], "resp": "tcp:…"}`
    private var json: String {
        func quoted(_ one: BoundAddress) -> String {
            "\"\(Self.escape(one.address.description))\""
        }
        let native = addresses.filter { $0.door == .native }.map { quoted($0) }
        let others = addresses.filter { $0.door != .native }
            .map { ", \"\($0.door.rawValue)\": \(quoted($0))" }
        return """
            {"pid": \(getpid()), "node": "\(Self.escape(nodeName))", \
            "addresses": [\(native.joined(separator: ", "))]\(others.joined())}

            """
    }

    func write(to path: String) throws(StartFault) {
        let temporary = "\(path).\(getpid())"
        let bytes = Array(json.utf8)
        // SAFETY: strings and array live through the calls.
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        var isWritten = false
        if descriptor >= 0 {
            isWritten = unsafe Glibc.write(descriptor, bytes, bytes.count) == bytes.count
            close(descriptor)
        }
        guard isWritten, unsafe rename(temporary, path) == 0 else {
            throw StartFault(message: "cannot write the ready file \(path): check its directory")
        }
    }

    static func remove(_ path: String) {
        // SAFETY: the string lives through the call. That it is gone already is fine.
        _ = unsafe unlink(path)
    }

    private static func escape(_ text: String) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": escaped += "\\\""
            case "\\": escaped += "\\\\"
            case _ where scalar.value < 32: escaped += " "
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
