/* Written by reference.py with ONNX Runtime 1.31.1, CPU. Not to be edited.
   Inputs: view[i] = (37 i + 11) mod 251; features[i] = sin(0.37 i); batch 3 */
#pragma once
enum { REFERENCE_BATCH = 3 };
static const float reference_features[12] = {
    0.05887945F, 0.0588392913F, 0.0572426617F, 0.0541318059F,
    0.261659741F, 0.363664627F, 0.456050098F, 0.536372542F,
    0.508394897F, 0.477384299F, 0.433746338F, 0.379284978F,
};
static const float reference_map[48] = {
    0.0F, 0.0F, 0.2355178F, 0.0F,
    0.0F, 0.0F, 0.235357165F, 0.0F,
    0.0F, 0.0F, 0.228970647F, 0.0F,
    0.0F, 0.0F, 0.216527224F, 0.0F,
    0.494393587F, 0.552245378F, 0.0F, 0.0F,
    0.811241508F, 0.643417001F, 0.0F, 0.0F,
    1.10663104F, 0.717569411F, 0.0F, 0.0F,
    1.37274897F, 0.772741079F, 0.0F, 0.0F,
    0.0F, 1.41689348F, 0.0F, 0.616686165F,
    0.0F, 1.17291415F, 0.0F, 0.736623049F,
    0.0F, 0.897909641F, 0.0F, 0.83707571F,
    0.0F, 0.599153638F, 0.00260010362F, 0.9153862F,
};
static const float reference_probabilities[6] = {
    0.47850883F, 0.52149117F, 0.490322828F, 0.509677172F,
    0.531110764F, 0.468889177F,
};
