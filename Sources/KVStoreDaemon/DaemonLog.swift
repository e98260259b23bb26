// SPDX-License-Identifier: Apache-2.0
import Glibc
import Logging
import Settings
import Telemetry

/// The daemon's log and metrics, from its settings.
struct DaemonLog {
    /// Lines are written out within this time when the daemon ends.
    private static let flushMilliseconds = 500

    let logger: Logger
    let metrics = Metrics()
    private let writer: LogWriter

    init(_ settings: DaemonSettings) {
        let isTerminal = isatty(STDERR_FILENO) == 1
        let form: LogLine.Form =
            switch settings.log.format {
            case .json: .json
            case .text: .text
            case .auto: isTerminal ? .text : .json
            }
        let writer = LogWriter(descriptor: STDERR_FILENO, form: form, metrics: metrics)
        let level = Logger.Level(rawValue: settings.log.level.rawValue) ?? .info
        self.writer = writer
        logger = Logger(label: "kvstored") { _ in
            LineLogHandler(level: level, writer: writer, metadata: ["node": "\(settings.nodeName)"])
        }
    }

    /// Writes out what is buffered.
    func close() {
        writer.flush(milliseconds: Self.flushMilliseconds)
        writer.stop()
    }
}
