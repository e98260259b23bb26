// SPDX-License-Identifier: Apache-2.0

extension KernelReference {
    /// How a section is predicted and put together, with matrices as they stand in a profile.
    package struct Predicted {
        package let means: [Float]
        package let referenceSteps: [Float]
        package let predictionScales: [Float]
        /// [reference][column]
        package let prediction: [[Int8]]
        package let synthesisScales: [Float]
        /// [coefficient][column]
        package let synthesis: [[Int16]]

        package init(
            means: [Float], referenceSteps: [Float], predictionScales: [Float],
            prediction: [[Int8]], synthesisScales: [Float], synthesis: [[Int16]]
        ) {
            self.means = means
            self.referenceSteps = referenceSteps
            self.predictionScales = predictionScales
            self.prediction = prediction
            self.synthesisScales = synthesisScales
            self.synthesis = synthesis
        }

        /// What the references of a row predict.
        package func predict(_ references: [Int8]) -> [Float] {
            means.indices.map { column in
                var sum: Int64 = 0
                for (index, reference) in references.enumerated() {
                    sum += Int64(prediction[index][column]) * Int64(reference)
                }
                let difference = predictionScales[column] * Float(sum)
                return means[column] + difference
            }
        }

        /// A row of values from what is predicted and symbols, escapes replaced by their values.
        package func values(
            _ predictions: [Float], _ symbols: [Int], step: Float, factor: Float
        ) -> [Float] {
            means.indices.map { column in
                var sum: Int64 = 0
                for (index, symbol) in symbols.enumerated() {
                    sum += Int64(synthesis[index][column]) * Int64(symbol)
                }
                let scale = synthesisScales[column] * step
                let difference = scale * factor * Float(sum)
                return predictions[column] + difference
            }
        }

        /// How other sections refer to a row of values.
        package func refer(_ values: [Float]) -> [Int8] {
            values.indices.map { column in
                let steps = (values[column] - means[column]) / referenceSteps[column]
                let whole = steps.rounded(.toNearestOrEven)
                return whole.isNaN ? 0 : Int8(min(max(whole, -127), 127))
            }
        }
    }
}
