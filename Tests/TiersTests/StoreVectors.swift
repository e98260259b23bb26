// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Testing

/// A store of Tests/Vectors/ssd: its files, whole, by the paths that the vector gives them.
struct StoreVector {
    private var files: [String: OwnedBytes] = [:]

    init(_ name: String) throws {
        let url = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../Vectors/ssd/\(name).store")
        var file = OwnedBytes(count: 0)
        for line in try String(contentsOf: url, encoding: .utf8).split(separator: "\n") {
            let words = line.split(separator: " ").map(String.init)
            if words[0] == "file" {
                file = OwnedBytes(count: try #require(Int(words[2])))
                files[words[1]] = file
            } else {
                let offset = try #require(Int(words[0], radix: 16))
                let bytes = try #require(bytesFromHexadecimal(words[1]))
                for (index, byte) in bytes.enumerated() {
                    file.bytes.store(byte, at: offset + index)
                }
            }
        }
    }

    var paths: [String] { files.keys.sorted() }

    func bytes(_ path: String) throws -> PinnedBytes { try #require(files[path]).bytes }

    /// Block `number` of a file.
    func block(_ path: String, _ number: Int) throws -> PinnedBytes {
        try bytes(path).slice(offset: number * 4_096, count: 4_096)
    }
}

extension PinnedBytes {
    /// A copy of the bytes.
    var array: [UInt8] { (0..<count).map { self[$0] } }
}
