// SPDX-License-Identifier: Apache-2.0

package import Logging

/// The daemon's log: one line an event, through a `LogWriter`. A value, as swift-log wants it.
package struct LineLogHandler: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata
    package var metadataProvider: Logger.MetadataProvider?
    private let writer: LogWriter

    /// Every line carries `metadata`, for example the node's name.
    package init(level: Logger.Level, writer: LogWriter, metadata: Logger.Metadata) {
        logLevel = level
        self.writer = writer
        self.metadata = metadata
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var fields = metadata
        if let provided = metadataProvider?.get() { fields.merge(provided) { _, new in new } }
        if let own = event.metadata { fields.merge(own) { _, new in new } }
        if let error = event.error { fields["error"] = "\(error)" }
        let line = LogLine(
            time: .now(), level: event.level, message: event.message.description,
            metadata: fields)
        writer.write(line.bytes(writer.form))
    }
}
