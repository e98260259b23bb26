// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import Testing

@testable import Telemetry

/// A pipe, closed with the test.
final class TestPipe {
    let pipe = Pipe()

    var writeEnd: Int32 { pipe.fileHandleForWriting.fileDescriptor }

    /// What was written so far; waits for at least one byte.
    func read() -> String {
        String(decoding: pipe.fileHandleForReading.availableData, as: UTF8.self)
    }
}

@Suite struct `A log line` {
    private func line(_ message: String, _ metadata: Logger.Metadata) -> LogLine {
        LogLine(
            time: WallClockTime(milliseconds: 1_770_091_506_789), level: .warning,
            message: message, metadata: metadata)
    }

    private func text(_ line: LogLine, _ form: LogLine.Form) -> String {
        String(decoding: line.bytes(form), as: UTF8.self)
    }

    @Test func `is one JSON object with the event before its fields`() throws {
        let line = line("a \"b\"\n\u{1}", ["z": "1", "event": "ready", "a": "x y"])
        let expected =
            #"{"time":"2026-02-03T04:05:06.789Z","level":"warning","event":"ready","#
            + #""message":"a \"b\"\n\u0001","a":"x y","z":"1"}"# + "\n"
        #expect(text(line, .json) == expected)
        let object = try JSONSerialization.jsonObject(with: Data(line.bytes(.json)))
        #expect((object as? [String: String])?["message"] == "a \"b\"\n\u{1}")
    }

    @Test func `is one line of text, whatever is in it`() {
        let line = line("up\nnow", ["event": "ready", "a": "x y", "b": "", "c": "1"])
        let expected =
            #"2026-02-03T04:05:06.789Z warning ready: up now a="x y" b="" c=1"# + "\n"
        #expect(text(line, .text) == expected)
    }

    @Test(arguments: [LogLine.Form.json, .text])
    func `is cut when it is too long, and stays whole`(form: LogLine.Form) throws {
        let long = String(repeating: "é", count: 10_000)
        let line = line(long, ["event": "ready", "a": "\(long)"])
        #expect(line.bytes(form).count <= LogLine.byteCountMax)
        #expect(text(line, form).contains("ready"))
        if form == .json {
            _ = try JSONSerialization.jsonObject(with: Data(line.bytes(.json)))
        }
    }

    @Test(arguments: [
        (0, "1970-01-01T00:00:00.000Z"), (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"), (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
    ])
    func `tells the time in UTC`(milliseconds: Int64, expected: String) {
        #expect(WallClockTime(milliseconds: milliseconds).description == expected)
    }
}

@Suite struct `The log` {
    @Test func `writes what is at or above its level, with its fields`() {
        let pipe = TestPipe()
        let writer = LogWriter(descriptor: pipe.writeEnd, form: .text, metrics: Metrics())
        let logger = Logger(label: "test") { _ in
            LineLogHandler(level: .info, writer: writer, metadata: ["node": "n1"])
        }
        logger.event(.debug, .starting, "not this")
        logger.event(.info, .ready, "this", ["port": 7411])
        writer.flush(milliseconds: 5_000)
        let text = pipe.read()
        #expect(text.hasSuffix(" info ready: this node=n1 port=7411\n"), "\(text)")
        #expect(text.count { $0 == "\n" } == 1)
        writer.stop()
    }

    @Test func `drops and counts when nobody reads, without stalling who logs`() {
        let pipe = TestPipe()
        let metrics = Metrics()
        let writer = LogWriter(descriptor: pipe.writeEnd, form: .json, metrics: metrics)
        let line = [UInt8](repeating: UInt8(ascii: "x"), count: 4_095) + [UInt8(ascii: "\n")]
        let lineCount = 1_000
        // 4 MB: more than the pipe and the buffer hold together.
        for _ in 0..<lineCount { writer.write(line) }
        let droppedCount = metrics.value(.logLinesDropped)
        #expect(droppedCount > 0)

        var text = ""
        let writtenByteCount = (lineCount - Int(droppedCount)) * line.count
        while text.utf8.count < writtenByteCount { text += pipe.read() }
        writer.write(Array("last\n".utf8))
        while !text.hasSuffix("last\n") { text += pipe.read() }
        let losses = text.matches(of: /"event":"log_lines_dropped".*"count":"([0-9]+)"/)
        #expect(losses.compactMap { UInt64($0.output.1) }.reduce(0, +) == droppedCount)
        writer.stop()
    }
}
