"""How long does a training epoch take here, and with RecBole's SASRec and UniSRec in the same hour?"""
