"""What the ONNX parsers of TensorRT and TensorRT-RTX can take, in one place.

``IMPORTED`` is what ``supports_operator`` of the parser of TensorRT-RTX 1.7.1 says yes to, of the operators of opset 20
and of those that torch's exporter writes; the parser of TensorRT 11 is of the same family. An importer may still refuse
a node: the limits below are from the parser's ``docs/operators.md`` (11.1), and those marked so were tried.
"""

from ctxdeploy.core.engines import TENSORRT_RTX

# Sizes.
LARGEST_K = 3840  # tried: 3841 parses, and fails in the build
LARGEST_TOPK_ELEMENTS = 1 << 31
OPSETS = range(9, 25)

_NAMES = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BlackmanWindow Cast "
    "CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace "
    "DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements "
    "GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample "
    "GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf "
    "IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul "
    "Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad "
    "Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 "
    "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu "
    "Reshape Resize ReverseSequence RoiAlign Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink "
    "Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh "
    "ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor"
)
IMPORTED = frozenset(_NAMES.split())
# Imported by name, and then refused.
REFUSED = {TENSORRT_RTX: frozenset({"NonZero"})}  # tried
# Of ONNX's types those that tensors may have; UINT8 only at inputs and outputs, DOUBLE is taken as FLOAT.
_TYPE_NAMES = "FLOAT FLOAT16 BFLOAT16 DOUBLE INT4 INT8 INT32 INT64 BOOL UINT8 FLOAT8E4M3FN FLOAT4E2M1 FLOAT8E8M0"
TYPES = frozenset(_TYPE_NAMES.split())
# Reductions take their axes as a constant.
CONSTANT_INPUT = {
    **{name: (1, "axes") for name in IMPORTED if name.startswith("Reduce")},
    "CumSum": (1, "axis"),
}
